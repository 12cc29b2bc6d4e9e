--[[
release: gives back what reservations hold. Again: the same answer. After commit or expiry: `ended`, with the state.

@flags allow-oom
@args references { sale u32, buyer c12, key c12, seq f64, seconds f64 }
@answer now f64, seq f64, results { status u8, state u8, expiresAt f64, durability u8, lines raw32 }
@errors FENCED, LATE
]]

local function release(keys, args)
  return settle(keys, args, function(call, sale, r, ref)
    local state = state_now(call, r)
    if state == RESERVATION.released then
      return STATUS.replay
    end
    if state ~= RESERVATION.held then
      return STATUS.ended
    end
    end_reservation(call, sale, ref.buyer, ref.key, r, RESERVATION.released, FACT.released)
    return STATUS.ok
  end)
end
