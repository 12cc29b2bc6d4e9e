--[[
see_tickets: how tickets stand; whoever asks is still there, and keeps the place.

`number` 0: whichever ticket the buyer has. One that isn't there, or has another number, is `unknown_ticket`.

@flags allow-oom
@args sale u32, tickets { buyer c12, number f64 }
@answer now f64, seq f64, waiting u32, inside u32, recentAdmitted u32, recentMs f64, ended u8, draw u8, tickets { status u8, state u8, lane u8, number f64, ahead f64, joined f64, expires f64 }
@errors FENCED, LATE
]]

local function see_tickets(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, n, pos = struct.unpack('<I4H', args[1], HEADER_BYTES + 1)
  local buyers, numbers, views = {}, {}, {}
  for i = 1, n do
    buyers[i], numbers[i], pos = struct.unpack('<c12d', args[1], pos)
  end
  local room = load_room(call, no)
  if room then
    load_tickets(room, buyers)
  end
  local seen = false
  for i = 1, n do
    local buyer = buyers[i]
    local ticket = room and room.tickets[buyer]
    if ticket and (numbers[i] == 0 or numbers[i] == ticket.number) then
      -- Not each time: a twentieth of the grace earlier or later does not matter.
      if ticket.state == TICKET.waiting and call.now - ticket.seen >= room.grace_ms / 20 then
        ticket.seen = call.now
        put_ticket(room, buyer, ticket)
        seen = true
      end
      views[i] = ticket_view(room, STATUS.ok, ticket, rank_of(room, buyer, ticket))
    else
      views[i] = no_ticket(STATUS.unknown_ticket)
    end
  end
  if seen then
    save_sale(room.sale)
    close_call(call)
  end
  return struct.pack('<dd', call.now, call.seq) .. room_view(room) .. struct.pack('<H', n) .. table.concat(views)
end
