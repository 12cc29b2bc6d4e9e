--[[
commit: sells what reservations hold. Again: the same answer. After release or expiry: `ended`, with the state.

A hold past its time can't be committed, swept or not. Commits need no room in the outbox: every reserve has kept some.

@flags allow-oom
@args references { sale u32, buyer c12, key c12, seq f64, seconds f64 }
@answer now f64, seq f64, results { status u8, state u8, expiresAt f64, durability u8, lines raw32 }
@errors FENCED, LATE
]]

local function commit(keys, args)
  return settle(keys, args, function(call, sale, r, ref)
    local state = state_now(call, r)
    if state == RESERVATION.committed then
      return STATUS.replay
    end
    if state ~= RESERVATION.held then
      return STATUS.ended
    end
    end_reservation(call, sale, ref.buyer, ref.key, r, RESERVATION.committed, FACT.committed)
    return STATUS.ok
  end)
end
