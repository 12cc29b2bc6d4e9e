--[[
place_tickets: puts some of a draw's tickets in their places: the first of them is at place `from` + 1. `done` 1: these are the last.

Whoever draws draws the same, so that doing it twice, or two at once, changes nothing. Who has left meanwhile keeps the place in the
draw, and is not in the line.

@flags allow-oom
@args sale u32, from u32, done u8, tickets { number f64, buyer c12 }
@answer now f64, seq f64, draw u8
@errors FENCED, LATE
]]

local function place_tickets(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, from, done, n, pos = struct.unpack('<I4I4BH', args[1], HEADER_BYTES + 1)
  local room = load_room(call, no)
  if not room or room.n.draw ~= DRAW.drawing then
    return struct.pack('<ddB', call.now, call.seq, room and room.n.draw or DRAW.none)
  end
  local buyers, drawn = {}, {}
  for i = 1, n do
    local number
    number, buyers[i], pos = struct.unpack('<dc12', args[1], pos)
    drawn[i] = struct.pack('<dc12', number, buyers[i])
  end
  if server.call('LLEN', room.drawn_key) == from then
    in_chunks('RPUSH', room.drawn_key, drawn)
  end
  load_tickets(room, buyers)
  for i = 1, n do
    local buyer = buyers[i]
    local ticket = room.tickets[buyer]
    if ticket and ticket.state == TICKET.waiting and ticket.place == 0 then
      ticket.place = from + i
      put_ticket(room, buyer, ticket)
      enter_line(room, buyer, ticket)
    end
  end
  if done == 1 then
    room.n.draw = DRAW.done
    room.told.all = true
    measure_anew(room.n, call.now)
    server.call('UNLINK', room.pool_key)
  end
  save_sale(room.sale)
  close_call(call)
  return struct.pack('<ddB', call.now, call.seq, room.n.draw)
end
