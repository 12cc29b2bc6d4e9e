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
  local due, looked, more, drop = take_due(call.prefix .. 'due', math.floor(call.now / BUCKET_MS), max, 2 * ID_BYTES)
  local expired, forgotten = 0, 0

  for no, payloads in pairs(due) do
    local buyers, keys = {}, {}
    for _, payload in ipairs(payloads) do
      cut_ids(string.sub(payload, 1, #payload / 2), buyers)
      cut_ids(string.sub(payload, #payload / 2 + 1), keys)
    end
    local sale = load_sale(call, no)
    load_reservations(sale, buyers, keys)
    for i = 1, #buyers do
      local buyer, key = buyers[i], keys[i]
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
  drop()
  if looked > 0 then
    close_call(call)
  end
  return struct.pack('<ddI4I4B', call.now, call.seq, expired, forgotten, more)
end
