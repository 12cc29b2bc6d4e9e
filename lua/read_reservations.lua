--[[
read_reservations: reservations as they stand now; a hold past its time reads as expired, swept or not.

@flags no-writes
@args references { sale u32, buyer c12, key c12, seq f64, seconds f64 }
@answer now f64, seq f64, results { status u8, state u8, expiresAt f64, durability u8, lines raw32 }
@errors FENCED, LATE
]]

local function read_reservations(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local n, pos = struct.unpack('<H', args[1], HEADER_BYTES + 1)
  local results = {}
  for i = 1, n do
    local sale, buyer, key, seq, seconds
    sale, buyer, key, seq, seconds, pos = struct.unpack(REFERENCE, args[1], pos)
    local packed = server.call('HGET', call.prefix .. 'book:' .. string.format('%d', sale), buyer .. key)
    local r = packed and unpack_record(packed)
    if r and r.seq == seq then
      results[i] = outcome(STATUS.ok, state_now(call, r), r)
    else
      results[i] = no_outcome()
    end
  end
  return struct.pack('<ddH', call.now, call.seq, n) .. table.concat(results)
end
