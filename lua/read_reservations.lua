--[[
read_reservations: reservations as they stand now; a hold past its time reads as expired, swept or not.

What was told stays so: the time at which a hold reads as expired is kept, should the server's clock go back afterwards.

@flags allow-oom
@args references { sale u32, buyer c12, key c12, seq f64, seconds f64 }
@answer now f64, seq f64, results { status u8, state u8, expiresAt f64, durability u8, lines raw32 }
@errors FENCED, LATE
]]

local function read_reservations(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local refs, named = read_references(call, args[1])
  for no, of in pairs(named) do
    load_book(call.sales[no], of.buyers, of.keys)
  end
  local results, over = {}, false
  for i = 1, #refs do
    local r = find_reference(call, refs[i])
    results[i] = r and outcome(STATUS.ok, state_now(call, r), r) or no_outcome()
    over = over or r and state_now(call, r) ~= r.state
  end
  if over then
    server.call('HSET', call.key, 'at', string.format('%.0f', call.now))
  end
  return struct.pack('<ddH', call.now, call.seq, #refs) .. table.concat(results)
end
