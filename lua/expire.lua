--[[
expire: the sweep. Ends holds whose time has come, and forgets reservations (and their keys) that ended long enough ago.

Looks at whole list elements of due buckets until `max` reservations were looked at; `more` is 1 while others are due.
Two sweepers at once do no harm: what the first has ended, the second finds ended.

@flags allow-oom
@args max u16
@answer now f64, seq f64, expired u32, forgotten u32, more u8
@errors FENCED, LATE
]]

local function expire(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local max = struct.unpack('<H', args[1], HEADER_BYTES + 1)
  local due_key = call.prefix .. 'due'
  local buckets = server.call(
    'ZRANGEBYSCORE', due_key, '-inf', string.format('%d', math.floor(call.now / BUCKET_MS)), 'LIMIT', 0, 20
  )
  local looked, expired, forgotten, more = 0, 0, 0, 0
  local finished, taken, named = {}, {}, {}
  for _, bucket in ipairs(buckets) do
    if looked >= max then
      more = 1
      break
    end
    local list_key = due_key .. ':' .. bucket
    local size = server.call('LLEN', list_key)
    local i = 0
    while i < size and looked < max do
      local element = server.call('LINDEX', list_key, i)
      local no = struct.unpack('<I4', element)
      local of = named[no] or { buyers = {}, keys = {} }
      named[no] = of
      local n = (#element - 4) / (2 * ID_BYTES)
      local pos = 5
      for _, list in ipairs({ of.buyers, of.keys }) do
        for _ = 1, n do
          list[#list + 1] = string.sub(element, pos, pos + ID_BYTES - 1)
          pos = pos + ID_BYTES
        end
      end
      looked = looked + n
      i = i + 1
    end
    if i == size then
      finished[#finished + 1] = bucket
    else
      taken[bucket] = i
      more = 1
    end
  end
  if #buckets == 20 then
    more = 1
  end

  for no, of in pairs(named) do
    local sale = load_sale(call, no)
    load_reservations(sale, of.buyers, of.keys)
    for i = 1, #of.buyers do
      local buyer, key = of.buyers[i], of.keys[i]
      local packed = find_record(sale, buyer, key)
      local r = packed and unpack_record(packed)
      -- What isn't due has been extended, or has ended since: it stands in a later bucket too.
      if r and r.state == RESERVATION.held then
        if hold_end(r) <= call.now then
          end_reservation(call, sale, buyer, key, r, RESERVATION.expired, FACT.expired)
          expired = expired + 1
        end
      elseif r and r.forget_at <= call.now then
        change_buyer(sale, buyer, 0, 0, key, false)
        forgotten = forgotten + 1
      end
    end
    save_sale(sale)
  end
  for _, bucket in ipairs(finished) do
    server.call('DEL', due_key .. ':' .. bucket)
    server.call('ZREM', due_key, bucket)
  end
  for bucket, count in pairs(taken) do
    server.call('LTRIM', due_key .. ':' .. bucket, count, -1)
  end
  if looked > 0 then
    close_call(call)
  end
  return struct.pack('<ddI4I4B', call.now, call.seq, expired, forgotten, more)
end
