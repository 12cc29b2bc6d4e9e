-- A call's frame: what every command checks before it does anything, and what it writes at its end.
--
-- Keys of shard N, all under its hash tag:
--   {sN}:shard        hash   epoch, seq, at (ms, the shard's time), live (reservations held), acked (what the ledger
--                            has), outbox_events (limit), remember_ms; building (the rebuild that is under way), was (epoch before it)
--   {sN}:outbox       stream an entry a call that changed something; its id is the last sequence in it
--   {sN}:sales        hash   sale id -> number
--   {sN}:sale:NO      hash   id, settings, digest, state, opens_at, closes_at, per_buyer, hold_ms, durability, …
--   {sN}:stock:NO     hash   sku -> stock of its warehouses, in the order in which they serve
--   {sN}:book:NO      hash   buyer -> units, and one reservation; buyer..key -> each of the buyer's other reservations
--   {sN}:changes:NO   hash   id of a stock adjustment or return -> what it did
--   {sN}:due          zset   bucket -> bucket: a tenth of a second in which holds end, or ended ones are forgotten
--   {sN}:due:BUCKET   list   of some of a sale's reservations: the sale's number, their buyers, their keys

local HEADER = '<I4dd' -- epoch, highest sequence the caller has seen, deadline (ms, the shard's time)
local HEADER_BYTES = 20
local OUTBOX_FORMAT = 1

local function time_ms()
  local t = server.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Fails, before anything is written, while the shard's slot is moving to another node of a cluster: keys that aren't there yet
-- could not be made then, and half of a change would be left.
local function check_slot(prefix)
  server.call('EXISTS', prefix .. 'never')
end

-- Returns the call's frame, or nil and the error to answer.
local function open_call(keys, args)
  check_slot(string.sub(keys[1], 1, -6))
  local epoch, seen, deadline = struct.unpack(HEADER, args[1])
  local shard = server.call('HMGET', keys[1], 'epoch', 'seq', 'at', 'live', 'acked', 'outbox_events', 'remember_ms')
  if not shard[1] then
    return nil, server.error_reply('FENCED this Valkey has no such shard')
  end
  if tonumber(shard[1]) ~= epoch then
    return nil, server.error_reply('FENCED the shard is at epoch ' .. shard[1])
  end
  local seq = tonumber(shard[2])
  if seq < seen then
    return nil, server.error_reply('FENCED the shard is at sequence ' .. shard[2] .. ', and its engine has seen more')
  end
  local now = time_ms()
  local at = tonumber(shard[3])
  if now < at then
    now = at
  end
  if now > deadline then
    return nil, server.error_reply('LATE the call came after its deadline')
  end
  return {
    key = keys[1],
    prefix = string.sub(keys[1], 1, -6),
    epoch = epoch,
    first = seq + 1,
    seq = seq,
    now = now,
    live = tonumber(shard[4]),
    acked = tonumber(shard[5]),
    outbox_events = tonumber(shard[6]),
    remember_ms = tonumber(shard[7]),
    sales = {},
    facts = {},
    due = {},
  }
end

-- An entry may be a small one or that of a thousand carts: a reader takes no more at a time than it can hold.
local ENTRIES_BYTES = 1048576
local ENTRIES_AT_ONCE = 16

-- The outbox's entries after a sequence, at most `max` and at most ENTRIES_BYTES (but one, however large it is): count, then
-- id and body of each.
local function pack_entries(prefix, after, max)
  local parts, n, size = { '' }, 0, 0
  local start = string.format('(%.0f-0', after)
  while n < max do
    local entries = server.call('XRANGE', prefix .. 'outbox', start, '+', 'COUNT', math.min(max - n, ENTRIES_AT_ONCE))
    for i = 1, #entries do
      local id, body = entries[i][1], entries[i][2][2]
      size = size + #body
      if size > ENTRIES_BYTES and n > 0 then
        max = n
        break
      end
      n = n + 1
      parts[n + 1] = struct.pack('<dI4c0', tonumber(string.match(id, '^%d+')), #body, body)
      start = '(' .. id
    end
    if #entries < ENTRIES_AT_ONCE then
      break
    end
  end
  parts[1] = struct.pack('<H', n)
  return table.concat(parts)
end

-- When the oldest entry was written that the ledger has not yet; 0 when it has all.
local function waiting_since(call)
  if call.seq <= call.acked then
    return 0
  end
  local from = string.format('(%.0f-0', call.acked)
  local oldest = server.call('XRANGE', call.prefix .. 'outbox', from, '+', 'COUNT', 1)[1]
  if not oldest then
    return 0
  end
  local _, _, at = struct.unpack('<BI4d', oldest[2][2])
  return at
end

-- Whether the outbox has room for `more` events and for the ending of every reservation then live.
local function has_room(call, more)
  return call.seq - call.acked + call.live + more <= call.outbox_events
end

-- How many more holds it has room for: each takes one event now and one at its end.
local function holds_left(call)
  return math.floor((call.outbox_events - (call.seq - call.acked) - call.live) / 2)
end

-- A fact up to its lines, which follow with their length, and then its note with its own.
local FACT_HEAD = '<BI4c12c12ddB' -- kind, sale, buyer, key, reservation, expiry, durability

-- Appends a packed fact: the sequence grows by exactly one. (reserve.lua appends many in one piece.)
local function append_fact(call, sale, fact)
  call.seq = call.seq + 1
  call.facts[#call.facts + 1] = fact
  sale.used = true
end

-- The same of what it says. `lines` and `note` may be ''.
local function add_fact(call, kind, sale, buyer, key, reservation, expires_at, durability, lines, note)
  append_fact(call, sale, struct.pack(
    FACT_HEAD .. 'I4c0Hc0', kind, sale.no, buyer, key, reservation, expires_at, durability, #lines, lines, #note, note
  ))
end

local NOBODY = '------------'

-- Writes the call's facts and the shard's new state. The last thing that a command does.
local function close_call(call)
  for _, sale in pairs(call.sales) do
    if sale.ended_buyers[1] then
      local forget_at = call.now + call.remember_ms
      add_due(call, sale, forget_at, table.concat(sale.ended_buyers), table.concat(sale.ended_keys))
    end
  end
  write_due(call)
  local n = #call.facts
  if n > 0 then
    local used = {}
    for _, sale in pairs(call.sales) do
      if sale.used then
        used[#used + 1] = struct.pack('<I4Bc0', sale.no, #sale.id, sale.id)
      end
    end
    local entry = struct.pack('<BI4ddH', OUTBOX_FORMAT, call.epoch, call.now, call.first, #used)
      .. table.concat(used) .. struct.pack('<H', n) .. table.concat(call.facts)
    server.call('XADD', call.prefix .. 'outbox', string.format('%.0f-0', call.seq), 'e', entry)
  end
  server.call(
    'HSET', call.key, 'seq', string.format('%.0f', call.seq), 'at', string.format('%.0f', call.now),
    'live', string.format('%.0f', call.live)
  )
end
