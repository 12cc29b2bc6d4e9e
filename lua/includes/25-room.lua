-- A sale's waiting room: who waits, in which order, and who is inside.
--
-- Keys of sale NO on shard N:
--   {sN}:rooms         set    numbers of the sales that have one
--   {sN}:room:NO       hash   the line's numbers (below), and the draw's seed
--   {sN}:tickets:NO    hash   buyer -> ticket
--   {sN}:line:NO:LANE  zset   buyers who wait, by place
--   {sN}:pool:NO       zset   buyers who wait for the draw, by number; once it has begun nobody comes or goes
--   {sN}:drawn:NO      list   tickets (number, buyer) in the order of the draw
--   {sN}:news:NO       stream buyers whose tickets were changed by others; the latest thousand
--   {sN}:looks         zset   bucket -> bucket: a second in which tickets are looked at
--   {sN}:looks:BUCKET  list   the sale's number and some of its buyers

local RULES = '<BBI4I4BddBB' -- order, state, most inside, a minute, by stock, admission and grace (ms), open when down, lanes
local LANE = '<HBc0' -- each lane's weight and name
local TICKET_FORMAT = '<BBI6dddd' -- state, lane, number, place, joined, seen, expires (all ms)
local LOOK_MS = 1000
local MOST_LANES = 8 -- limits.lanes
local LOOKS_AT_ONCE = 250 -- buyers of an element, which is looked at whole
local WINDOW_MS = 60000 -- over which the inlet is measured, at least
local DOWN_MS = 10000 -- nobody has tended a line for that long: it is down
local NEWS_KEPT = 1000
-- What a room's hash has, but for the seed. `virtual` is that of the latest admission, `virtual:LANE` how far each lane is.
local NUMBERS = {
  'next', -- number of the latest ticket
  'inside', 'admitted', 'used', 'abandoned',
  'bought', 'back', -- holds that ended as sold, and otherwise
  'credit', 'credit_at', -- of the inlet a minute
  'draw', 'ended', 'news', 'virtual',
  'tended', 'up_at', -- when the line was tended last, and since when it has been without a long break
  'latest_at', 'window_at', 'window_admitted', 'before_ms', 'before_admitted', -- the latest admission; those of two windows
  'stock_seq', 'stock_at', 'available', 'held', -- the sale's units when they were last counted
}

-- The room as a call sees it; nil where the sale has none.
local function open_room(call, sale)
  if sale.room or not sale.rules then
    return sale.room
  end
  local name = string.format('%d', sale.no)
  local room = {
    call = call,
    sale = sale,
    key = call.prefix .. 'room:' .. name,
    tickets_key = call.prefix .. 'tickets:' .. name,
    line_key = call.prefix .. 'line:' .. name .. ':',
    pool_key = call.prefix .. 'pool:' .. name,
    drawn_key = call.prefix .. 'drawn:' .. name,
    news_key = call.prefix .. 'news:' .. name,
    weights = {},
    lane_names = {},
    virtual = {}, -- lane -> the number of how far it is
    n = {},
    tickets = {}, -- buyer -> ticket, false where there is none
    changed = {}, -- buyers whose tickets are to be written
    forgotten = {},
    enter = {}, -- lane -> place, buyer, …
    leave = {}, -- lane -> buyers
    waiting = {}, -- lane -> how many, once somebody asked
    looks = {}, -- bucket -> buyers
    told = {},
    pending = {}, -- buyer -> rank, of those who came in this call
  }
  local lanes, pos
  room.order, room.state, room.max_inside, room.per_minute, room.by_stock, room.admission_ms, room.grace_ms, room.open_when_down, lanes, pos =
    struct.unpack(RULES, sale.rules)
  for lane = 1, lanes do
    room.weights[lane], room.lane_names[lane], pos = struct.unpack(LANE, sale.rules, pos)
    room.enter[lane], room.leave[lane], room.virtual[lane] = {}, {}, 'virtual:' .. lane
  end
  local found = server.call('HGETALL', room.key)
  for i = 1, #found, 2 do
    if found[i] ~= 'seed' then
      room.n[found[i]] = tonumber(found[i + 1])
    end
  end
  for _, field in ipairs(NUMBERS) do
    room.n[field] = room.n[field] or 0
  end
  for lane = 1, lanes do
    room.n[room.virtual[lane]] = room.n[room.virtual[lane]] or 0
  end
  sale.room = room
  return room
end

-- Makes a sale's waiting room, or takes it away. (Nobody may have come yet: put_sale.)
local function write_room(prefix, no, rules, seed, now)
  local name = string.format('%d', no)
  local key = prefix .. 'room:' .. name
  if rules == '' then
    server.call('SREM', prefix .. 'rooms', name)
    server.call('DEL', key)
  elseif server.call('SADD', prefix .. 'rooms', name) == 1 then
    server.call('HSET', key, 'tended', string.format('%.0f', now))
    server.call('HSETNX', key, 'seed', seed)
  end
end

local function unpack_ticket(packed)
  local state, lane, number, place, joined, seen, expires = struct.unpack(TICKET_FORMAT, packed)
  return { state = state, lane = lane, number = number, place = place, joined = joined, seen = seen, expires = expires }
end

local function load_tickets(room, buyers)
  local missing, found = {}, {}
  for i = 1, #buyers do
    local buyer = buyers[i]
    if room.tickets[buyer] == nil then
      room.tickets[buyer] = false
      missing[#missing + 1] = buyer
    end
  end
  get_fields(room.tickets_key, missing, found)
  for buyer, packed in pairs(found) do
    room.tickets[buyer] = packed and unpack_ticket(packed)
  end
end

local function put_ticket(room, buyer, ticket)
  room.tickets[buyer] = ticket
  room.changed[buyer] = true
end

-- Has a ticket looked at once `at` has come.
local function look_at(room, buyer, at)
  local bucket = math.ceil(at / LOOK_MS)
  local buyers = room.looks[bucket] or {}
  room.looks[bucket] = buyers
  buyers[#buyers + 1] = buyer
end

local function waiting_in(room, lane)
  local count = room.waiting[lane]
  if not count then
    count = server.call('ZCARD', room.line_key .. lane)
    room.waiting[lane] = count
  end
  return count
end

local function all_waiting(room)
  local draw = room.n.draw
  local count = draw == DRAW.done and 0 or server.call('ZCARD', room.pool_key)
  if draw == DRAW.drawing then
    return count
  end
  for lane = 1, #room.weights do
    count = count + waiting_in(room, lane)
  end
  return count
end

-- While nobody waits, or nobody is let in, nothing is measured of how fast people are let in.
local function measure_anew(n, now)
  n.window_at, n.window_admitted, n.before_ms, n.before_admitted = now, 0, 0, 0
end

-- The first who comes into an empty lane has no credit from the time in which nobody waited there.
local function enter_line(room, buyer, ticket)
  local lane, n = ticket.lane, room.n
  local waiting = waiting_in(room, lane)
  if waiting == 0 then
    local virtual = room.virtual[lane]
    n[virtual] = math.max(n[virtual], n.virtual)
    if all_waiting(room) == 0 then
      measure_anew(n, room.call.now)
    end
  end
  local list = room.enter[lane]
  list[#list + 1] = ticket.place
  list[#list + 1] = buyer
  room.waiting[lane] = waiting + 1
end

local function leave_line(room, buyer, ticket)
  if ticket.place > 0 then
    local list = room.leave[ticket.lane]
    list[#list + 1] = buyer
    room.waiting[ticket.lane] = waiting_in(room, ticket.lane) - 1
  elseif room.n.draw == DRAW.none then
    server.call('ZREM', room.pool_key, buyer)
  end
end

local function count_admission(room)
  local n, now = room.n, room.call.now
  if now - n.latest_at >= WINDOW_MS then
    measure_anew(n, now)
  elseif now - n.window_at >= WINDOW_MS then
    n.before_ms, n.before_admitted = now - n.window_at, n.window_admitted
    n.window_at, n.window_admitted = now, 0
  end
  n.latest_at, n.window_admitted = now, n.window_admitted + 1
end

-- Lets somebody in who waits.
local function admit(room, buyer, ticket)
  local n, lane = room.n, ticket.lane
  leave_line(room, buyer, ticket)
  ticket.state, ticket.expires = TICKET.admitted, room.call.now + room.admission_ms
  put_ticket(room, buyer, ticket)
  look_at(room, buyer, ticket.expires)
  local virtual = room.virtual[lane]
  n[virtual] = n[virtual] + 1 / room.weights[lane]
  n.virtual = math.max(n.virtual, n[virtual])
  n.inside, n.admitted = n.inside + 1, n.admitted + 1
  count_admission(room)
  room.told[#room.told + 1] = buyer
end

-- Ends a ticket of somebody who waits or is inside; it is remembered for a while.
local function end_ticket(room, buyer, ticket, state)
  if ticket.state == TICKET.waiting then
    leave_line(room, buyer, ticket)
  else
    room.n.inside = room.n.inside - 1
  end
  ticket.state, ticket.expires = state, room.call.now + room.call.remember_ms
  put_ticket(room, buyer, ticket)
  look_at(room, buyer, ticket.expires)
  room.told[#room.told + 1] = buyer
end
