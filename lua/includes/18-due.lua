-- What is to be looked at when its time has come.

local BUCKET_MS = 100

-- Has reservations of a sale looked at when `at` has come. `buyers` and `keys`: those of all of them, joined.
local function add_due(call, sale, at, buyers, keys)
  local bucket = math.ceil(at / BUCKET_MS)
  local elements = call.due[bucket]
  if not elements then
    elements = {}
    call.due[bucket] = elements
  end
  elements[#elements + 1] = struct.pack('<I4', sale.no) .. buyers .. keys
end

-- Of a zset of buckets, each with a list of elements (sale number, then `bytes` bytes for each of some): what is due until
-- bucket `now`, until `max` were taken, whole elements at a time. Answers sale number -> their payloads, how many, whether
-- more is due, and what drops them: to be called once the work on them is done, since a call that fails must not have
-- forgotten them.
local BUCKETS_AT_ONCE = 20
local function take_due(key, now, max, bytes)
  local buckets = server.call('ZRANGEBYSCORE', key, '-inf', string.format('%d', now), 'LIMIT', 0, BUCKETS_AT_ONCE)
  local taken, named, looked = {}, {}, 0
  local more = #buckets == BUCKETS_AT_ONCE and 1 or 0
  for at = 1, #buckets do
    if looked >= max then
      more = 1
      break
    end
    local list_key = key .. ':' .. buckets[at]
    local size, i = server.call('LLEN', list_key), 0
    while i < size and looked < max do
      local element = server.call('LINDEX', list_key, i)
      local no = struct.unpack('<I4', element)
      local payloads = named[no] or {}
      named[no] = payloads
      payloads[#payloads + 1] = string.sub(element, 5)
      looked = looked + (#element - 4) / bytes
      i = i + 1
    end
    taken[at] = i
    if i < size then
      more = 1
    end
  end
  local function drop()
    for at, count in ipairs(taken) do
      local list_key = key .. ':' .. buckets[at]
      -- An empty list is no key: then nobody is in its bucket any more.
      server.call('LTRIM', list_key, count, -1)
      if server.call('EXISTS', list_key) == 0 then
        server.call('ZREM', key, buckets[at])
      end
    end
  end
  return named, looked, more, drop
end

-- Cuts a text into pieces of an id's length, onto the end of a list.
local function cut_ids(text, list)
  for pos = 1, #text, ID_BYTES do
    list[#list + 1] = string.sub(text, pos, pos + ID_BYTES - 1)
  end
end

local function write_due(call)
  for bucket, elements in pairs(call.due) do
    local name = string.format('%d', bucket)
    local length = in_chunks('RPUSH', call.prefix .. 'due:' .. name, elements)
    if length == #elements then
      server.call('ZADD', call.prefix .. 'due', name, name)
    end
  end
end
