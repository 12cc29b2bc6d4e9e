--[[
read_draw: the draw of a sale's waiting room: its seed, and once it is done some of its tickets in the order of their places.

@flags no-writes
@args sale u32, from u32, max u16
@answer now f64, seq f64, draw u8, seed str8, total u32, tickets { number f64, buyer c12 }
@errors FENCED, LATE
]]

local function read_draw(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, from, max = struct.unpack('<I4I4H', args[1], HEADER_BYTES + 1)
  local room = load_room(call, no)
  local head = struct.pack('<dd', call.now, call.seq)
  if not room then
    return head .. struct.pack('<BBI4H', DRAW.none, 0, 0, 0)
  end
  local seed = server.call('HGET', room.key, 'seed') or ''
  local tickets = room.n.draw == DRAW.done and server.call('LRANGE', room.drawn_key, from, from + max - 1) or {}
  return head .. struct.pack('<BBc0I4H', room.n.draw, #seed, seed, server.call('LLEN', room.drawn_key), #tickets)
    .. table.concat(tickets)
end
