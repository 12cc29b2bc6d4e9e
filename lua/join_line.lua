--[[
join_line: gives buyers tickets of a sale's waiting room; who has one that is not over gets the same again (`replay`).

`lane` counts from 1. Who comes before the draw of a shuffle has no place yet; with the order `pass` an open sale lets everyone in
at once. Refused as `unknown_sale` (it has no waiting room), `not_allowed` (no such lane), `sale_not_open` (closed, or its line is),
`sold_out` (nothing is left or can come back), `too_many`.

@flags
@args sale u32, buyers c12*, lanes u8*
@answer now f64, seq f64, waiting u32, inside u32, recentAdmitted u32, recentMs f64, ended u8, draw u8, tickets { status u8, state u8, lane u8, number f64, ahead f64, joined f64, expires f64 }
@errors FENCED, LATE
]]

local MOST = 2000000 -- tickets of a sale (limits.ticketsPerSale)

-- Why nobody gets a new ticket; nil when everybody does.
local function refusal_of_all(room, sale, now)
  if room.order == ORDER.closed or room.state == ROOM.closed or sale.state == SALE.closed then
    return STATUS.sale_not_open
  end
  if sale.closes_at > 0 and now >= sale.closes_at then
    return STATUS.sale_not_open
  end
  if room.n.ended == ENDED.sold_out then
    return STATUS.sold_out
  end
  if server.call('HLEN', room.tickets_key) >= MOST then
    return STATUS.too_many
  end
  return nil
end

local function new_ticket(room, buyer, lane, passing)
  local n, now = room.n, room.call.now
  n.next = n.next + 1
  local ticket = { state = TICKET.waiting, lane = lane, number = n.next, place = n.next, joined = now, seen = now, expires = 0 }
  put_ticket(room, buyer, ticket)
  if room.order == ORDER.shuffle and n.draw == DRAW.none then
    ticket.place = 0
    room.enter_pool[#room.enter_pool + 1] = n.next
    room.enter_pool[#room.enter_pool + 1] = buyer
    look_at(room, buyer, now + room.grace_ms)
    return ticket, 0
  end
  local rank = waiting_in(room, lane)
  enter_line(room, buyer, ticket)
  if passing then
    admit(room, buyer, ticket)
  else
    look_at(room, buyer, now + room.grace_ms)
  end
  return ticket, rank
end

local function join_line(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, n, pos = struct.unpack('<I4H', args[1], HEADER_BYTES + 1)
  local buyers, lanes
  buyers, pos = read_column(args[1], pos, 'c12', n)
  lanes = read_column(args[1], pos + 2, 'B', n)
  local room = load_room(call, no)
  local head, views = struct.pack('<dd', call.now, call.seq), {}
  if not room then
    for i = 1, n do
      views[i] = no_ticket(STATUS.unknown_sale)
    end
    return head .. room_view(nil) .. struct.pack('<H', n) .. table.concat(views)
  end
  room.enter_pool = {}
  load_tickets(room, buyers)
  local refused = refusal_of_all(room, room.sale, call.now)
  local passing = room.order == ORDER.pass and room.state == ROOM.open and is_open(room.sale, call.now)
  for i = 1, n do
    local buyer, lane, ticket = buyers[i], lanes[i], room.tickets[buyers[i]]
    if ticket and ticket.state == TICKET.admitted and ticket.expires <= call.now then
      end_ticket(room, buyer, ticket, TICKET.lapsed)
    end
    local kept = ticket
      and (ticket.state == TICKET.waiting or ticket.state == TICKET.admitted or ticket.state == TICKET.expelled)
    if kept then
      -- Written again, so that this answer too waits until it is on disk.
      ticket.seen = call.now
      put_ticket(room, buyer, ticket)
      views[i] = ticket_view(room, STATUS.replay, ticket, room.pending[buyer] or rank_of(room, buyer, ticket))
    elseif refused then
      views[i] = no_ticket(refused)
    elseif lane < 1 or lane > #room.weights then
      views[i] = no_ticket(STATUS.not_allowed)
    else
      local made, rank = new_ticket(room, buyer, lane, passing)
      room.pending[buyer] = rank
      views[i] = ticket_view(room, STATUS.ok, made, rank)
    end
  end
  in_chunks('ZADD', room.pool_key, room.enter_pool)
  save_sale(room.sale)
  close_call(call)
  return head .. room_view(room) .. struct.pack('<H', n) .. table.concat(views)
end
