--[[
read_pool: some of those among whom places are drawn, by the numbers of their tickets, and the seed. Once the draw has begun nobody
comes or goes, so that whoever draws draws the same. `draw` says whether it has.

@flags no-writes
@args sale u32, from u32, max u16
@answer now f64, seq f64, draw u8, seed str8, tickets { number f64, buyer c12 }
@errors FENCED, LATE
]]

local function read_pool(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, from, max = struct.unpack('<I4I4H', args[1], HEADER_BYTES + 1)
  local room = load_room(call, no)
  local head = struct.pack('<dd', call.now, call.seq)
  if not room then
    return head .. struct.pack('<BBH', DRAW.none, 0, 0)
  end
  local seed = server.call('HGET', room.key, 'seed') or ''
  local found = server.call('ZRANGE', room.pool_key, from, from + max - 1, 'WITHSCORES')
  local parts = {}
  for i = 1, #found, 2 do
    parts[#parts + 1] = struct.pack('<dc12', tonumber(found[i + 1]), found[i])
  end
  return head .. struct.pack('<BBc0H', room.n.draw, #seed, seed, #parts) .. table.concat(parts)
end
