--[[
tend_lines: looks after the lines of a shard: lets people in as their inlets allow, ends the tickets of those who have gone away or
whose admission has run out, and notices when nothing is left to wait for.

At most `max` tickets are looked at, and as many let in; `more` is 1 while others are due. `draw` is 1 where places are to be drawn
(read_pool, place_tickets). `waited`: how long each one had waited who was let in, ms. Two who tend at once do no harm.

@flags allow-oom
@args max u16
@answer now f64, seq f64, more u8, rooms { sale u32, waiting u32, inside u32, recentAdmitted u32, recentMs f64, ended u8, draw u8, abandoned u16, waited { ms f64 } }
@errors FENCED, LATE
]]

local LARGE_SALE = 500 -- allotments; the units of a larger one are counted once a second
local BURST_MS = 1000 -- of the inlet a minute, which a pause in tending may save up
local SURE_AFTER = 20 -- holds that have ended, before anything is made of how they ended

local function look(room, buyer, ticket, now)
  if ticket.state == TICKET.waiting then
    -- While nothing ran nobody could be seen.
    local until_ms = math.max(ticket.seen, room.n.up_at) + room.grace_ms
    if until_ms > now then
      look_at(room, buyer, until_ms)
    else
      end_ticket(room, buyer, ticket, TICKET.lapsed)
      room.n.abandoned = room.n.abandoned + 1
      room.lost = room.lost + 1
    end
  elseif ticket.expires > now then
    look_at(room, buyer, ticket.expires)
  elseif ticket.state == TICKET.admitted then
    end_ticket(room, buyer, ticket, TICKET.lapsed)
  elseif ticket.state ~= TICKET.expelled then
    room.forgotten[#room.forgotten + 1] = buyer
  end
end

-- Counts the sale's units that are available, and held.
local function count_stock(room)
  local n, call = room.n, room.call
  if n.stock_seq == call.seq then
    return
  end
  if call.now - n.stock_at < 1000 and server.call('HLEN', room.sale.stock_key) > LARGE_SALE then
    return
  end
  n.available, n.held, n.stock_seq, n.stock_at = 0, 0, call.seq, call.now
  for _, packed in ipairs(server.call('HVALS', room.sale.stock_key)) do
    local item = unpack_stock('', packed)
    n.available = n.available + item.available
    for i = 1, #item do
      n.held = n.held + item[i].reserved
    end
  end
end

-- Units that are likely to come back from holds: their number by the part that came back so far, less what chance may have
-- added to it (one standard deviation).
local function likely_back(n)
  local ended = n.bought + n.back
  if ended < SURE_AFTER then
    return 0
  end
  local part = n.back / ended
  return math.floor(n.held * math.max(0, part - math.sqrt(part * (1 - part) / ended)))
end

-- How many its inlets let in now.
local function allowance(room, now, max)
  local n = room.n
  local left = max
  if room.per_minute > 0 then
    -- The first need not wait for a minute to pass.
    local saved = n.credit_at > 0 and (now - n.credit_at) * room.per_minute / 60000 or 1
    n.credit = math.min(n.credit + saved, math.max(1, room.per_minute * BURST_MS / 60000))
    n.credit_at = now
    left = math.min(left, math.floor(n.credit))
  end
  if room.order == ORDER.pass then
    return max
  end
  if room.max_inside > 0 then
    left = math.min(left, room.max_inside - n.inside)
  end
  if room.by_stock == 1 then
    left = math.min(left, n.available + likely_back(n) - n.inside)
  end
  return left
end

-- The next lane to let somebody in from; nil when nobody waits.
local function next_lane(room)
  local best, least
  for lane = 1, #room.weights do
    if waiting_in(room, lane) > 0 then
      local virtual = room.n[room.virtual[lane]] + 1 / room.weights[lane]
      if not least or virtual < least - ROUNDING then
        best, least = lane, virtual
      end
    end
  end
  return best
end

local function let_in(room, left)
  local heads, at, waited = {}, {}, {}
  while #waited < left do
    local lane = next_lane(room)
    if not lane then
      break
    end
    if not heads[lane] then
      -- Those who have just been found to be gone still stand there.
      heads[lane] = server.call('ZRANGE', room.line_key .. lane, 0, left - 1 + #room.leave[lane])
      at[lane] = 0
      load_tickets(room, heads[lane])
    end
    local buyer, ticket
    repeat
      at[lane] = at[lane] + 1
      buyer = heads[lane][at[lane]]
      ticket = room.tickets[buyer]
    until ticket.state == TICKET.waiting
    waited[#waited + 1] = struct.pack('<d', room.call.now - ticket.joined)
    admit(room, buyer, ticket)
  end
  room.n.credit = room.per_minute > 0 and math.max(0, room.n.credit - #waited) or 0
  return waited
end

local function reason_to_end(room, sale, now)
  if room.state == ROOM.closed or sale.state == SALE.closed or (sale.closes_at > 0 and now >= sale.closes_at) then
    return ENDED.closed
  end
  return room.n.available == 0 and room.n.held == 0 and ENDED.sold_out or 0
end

-- Answers what came of it; the room is only to be written when something has changed (`touched`).
local function tend(room, sale, max)
  local n, now = room.n, room.call.now
  local credit, waited = n.credit, {}
  count_stock(room)
  local ended = reason_to_end(room, sale, now)
  local touched = ended ~= n.ended or room.lost > 0 or next(room.looks) ~= nil or room.forgotten[1] ~= nil
  if ended ~= n.ended then
    n.ended = ended
    room.told.all = true
  end
  if is_open(sale, now) and room.state == ROOM.open and ended == 0 then
    if room.order == ORDER.shuffle and n.draw == DRAW.none then
      n.draw = server.call('ZCARD', room.pool_key) > 0 and DRAW.drawing or DRAW.done
      touched = true
    end
    if n.draw ~= DRAW.drawing then
      waited = let_in(room, allowance(room, now, max))
    end
  end
  if now - n.tended >= 1000 or math.floor(n.credit) ~= math.floor(credit) then
    n.tended = now
    touched = true
  end
  return waited, touched or #waited > 0
end

local function tend_lines(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local max = struct.unpack('<H', args[1], HEADER_BYTES + 1)
  local due, looked, more, drop = take_due(call.prefix .. 'looks', math.floor(call.now / LOOK_MS), max, ID_BYTES)
  local answers, changed = {}, looked > 0
  for _, name in ipairs(server.call('SMEMBERS', call.prefix .. 'rooms')) do
    local sale = load_sale(call, tonumber(name))
    local room = open_room(call, sale)
    if room then
      room.lost = 0
      local buyers = {}
      for _, payload in ipairs(due[sale.no] or {}) do
        cut_ids(payload, buyers)
      end
      load_tickets(room, buyers)
      if call.now - room.n.tended > DOWN_MS then
        room.n.up_at = call.now
      end
      -- Who left and came back may be named twice.
      local looked_at = {}
      for i = 1, #buyers do
        local buyer = buyers[i]
        if room.tickets[buyer] and not looked_at[buyer] then
          looked_at[buyer] = true
          look(room, buyer, room.tickets[buyer], call.now)
        end
      end
      local waited, touched = tend(room, sale, max)
      if #waited == max then
        more = 1
      end
      answers[#answers + 1] = struct.pack('<I4', sale.no) .. room_view(room)
        .. struct.pack('<HH', room.lost, #waited) .. table.concat(waited)
      if touched then
        save_sale(sale)
        changed = true
        -- What is over for good, and whose last ticket is forgotten, need not be tended any more; but a line that was closed must
        -- not be taken for one that is down.
        if room.n.ended == ENDED.closed and room.open_when_down == 0 and server.call('EXISTS', room.tickets_key) == 0 then
          server.call('SREM', call.prefix .. 'rooms', name)
        end
      else
        sale.room = nil
      end
    end
  end
  drop()
  if changed then
    close_call(call)
  end
  return struct.pack('<ddBH', call.now, call.seq, more, #answers) .. table.concat(answers)
end
