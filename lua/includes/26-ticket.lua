-- What a ticket is good for, and how it, and the room, are answered.

local ROUNDING = 1e-6 -- thirds and sevenths of turns don't add up to whole ones

-- How many are let in before the one who has `rank` others before in the lane: lanes take turns by their weights, the lane
-- whose next one has the least virtual time first.
local function ahead_of(room, lane, rank)
  local ahead, n, weights = rank, room.n, room.weights
  if #weights == 1 then
    return rank
  end
  local mine = n[room.virtual[lane]] + (rank + 1) / weights[lane]
  for other = 1, #weights do
    if other ~= lane then
      local turns = (mine - n[room.virtual[other]]) * weights[other]
      local before = other < lane and math.floor(turns + ROUNDING) or math.ceil(turns - ROUNDING) - 1
      ahead = ahead + math.max(0, math.min(before, waiting_in(room, other)))
    end
  end
  return ahead
end

-- How a ticket is answered: status, state, lane, number, people ahead (-1: no place yet), joined, expires.
local VIEW = '<BBBdddd'
local function ticket_view(room, status, ticket, rank)
  local ahead, state = -1, ticket.state
  if state == TICKET.waiting and ticket.place > 0 and room.n.draw ~= DRAW.drawing then
    ahead = ahead_of(room, ticket.lane, rank)
  elseif state == TICKET.admitted and ticket.expires <= room.call.now then
    -- Found to be so or not.
    state = TICKET.lapsed
  end
  return struct.pack(
    VIEW, status, state, ticket.lane, ticket.number, ahead, ticket.joined, ticket.expires
  )
end
local function no_ticket(status)
  return struct.pack(VIEW, status, 0, 0, 0, -1, 0, 0)
end

local function rank_of(room, buyer, ticket)
  if ticket.state ~= TICKET.waiting or ticket.place == 0 then
    return 0
  end
  return server.call('ZRANK', room.line_key .. ticket.lane, buyer) or 0
end

-- How the room is answered: waiting, inside, admitted in how many ms, why it ended, how far the draw is.
-- (All are 0 where there is none.)
local function room_view(room)
  if not room then
    return struct.pack('<I4I4I4dBB', 0, 0, 0, 0, 0, 0)
  end
  local n = room.n
  return struct.pack(
    '<I4I4I4dBB', all_waiting(room), n.inside, n.window_admitted + n.before_admitted,
    room.call.now - n.window_at + n.before_ms, n.ended, n.draw
  )
end

-- Whether somebody may buy with the ticket of that number.
local function is_admitted(room, buyer, number)
  local ticket, now = room.tickets[buyer], room.call.now
  if ticket and ticket.state == TICKET.admitted and ticket.number == number and now < ticket.expires then
    return true
  end
  return room.open_when_down == 1 and now - room.n.tended > DOWN_MS
end

-- The admission is used up by what it was for.
local function use_ticket(room, buyer)
  local ticket = room.tickets[buyer]
  if ticket and ticket.state == TICKET.admitted then
    end_ticket(room, buyer, ticket, TICKET.used)
    room.n.used = room.n.used + 1
  end
end
