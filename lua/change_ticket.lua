--[[
change_ticket: a buyer leaves the line, or an operator looks at a ticket, expels somebody, lets somebody in, or moves somebody to a
position.

Answers `ended` where the ticket is over already (leaving again, and looking, is `replay`), `not_allowed` where it can't be moved: it has no place yet,
is inside, or there is no number left between its neighbours' places.

@flags allow-oom
@args sale u32, buyer c12, number f64, action u8, position u32
@answer now f64, seq f64, waiting u32, inside u32, recentAdmitted u32, recentMs f64, ended u8, draw u8, status u8, state u8, lane u8, number f64, ahead f64, joined f64, expires f64
@errors FENCED, LATE
]]

-- Gives a waiting ticket a place between those who will be its neighbours; answers how many are before it in its lane then, or nil
-- where there is no number between theirs.
local function move_to(room, buyer, ticket, position, mine)
  local key = room.line_key .. ticket.lane
  local others = waiting_in(room, ticket.lane) - 1
  local rank = math.min(math.max(position, 1) - 1, others)
  if rank == mine then
    return rank
  end
  -- The place of the one who has `i` before, this ticket left out.
  local function place_of(i)
    local at = i < mine and i or i + 1
    return tonumber(server.call('ZRANGE', key, at, at, 'WITHSCORES')[2])
  end
  local before = rank > 0 and place_of(rank - 1) or 0
  if rank == others then
    -- Behind all who are there, and before all who come.
    room.n.next = room.n.next + 1
    ticket.place = math.max(room.n.next, before + 1)
  else
    local after = place_of(rank)
    ticket.place = (before + after) / 2
    if ticket.place <= before or ticket.place >= after then
      return nil
    end
  end
  server.call('ZADD', key, string.format('%.17g', ticket.place), buyer)
  put_ticket(room, buyer, ticket)
  room.told[#room.told + 1] = buyer
  return rank
end

local function change_ticket(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, buyer, number, action, position = struct.unpack('<I4c12dBI4', args[1], HEADER_BYTES + 1)
  local room = load_room(call, no)
  local head = struct.pack('<dd', call.now, call.seq)
  if not room then
    return head .. room_view(nil) .. no_ticket(STATUS.unknown_ticket)
  end
  load_tickets(room, { buyer })
  local ticket = room.tickets[buyer]
  if not ticket or ticket.number ~= number then
    return head .. room_view(room) .. no_ticket(STATUS.unknown_ticket)
  end
  local waits, rank = ticket.state == TICKET.waiting, rank_of(room, buyer, ticket)
  local status = STATUS.ok
  if action == ACTION.look or (action == ACTION.leave and ticket.state == TICKET.left) then
    status = STATUS.replay
  elseif not waits and ticket.state ~= TICKET.admitted then
    status = STATUS.ended
  elseif action == ACTION.leave or action == ACTION.expel then
    end_ticket(room, buyer, ticket, action == ACTION.leave and TICKET.left or TICKET.expelled)
  elseif action == ACTION.admit then
    if waits then
      admit(room, buyer, ticket)
    end
  elseif not waits or ticket.place == 0 then
    status = STATUS.not_allowed
  else
    local moved = move_to(room, buyer, ticket, position, rank)
    status = moved and STATUS.ok or STATUS.not_allowed
    rank = moved or rank
  end
  local view = room_view(room) .. ticket_view(room, status, ticket, rank)
  if status == STATUS.ok then
    save_sale(room.sale)
    close_call(call)
  end
  return head .. view
end
