--[[
extend: lengthens holds by `seconds`, as often and by as much at a time as the sale allows.

@flags
@args references { sale u32, buyer c12, key c12, seq f64, seconds f64 }
@answer now f64, seq f64, results { status u8, state u8, expiresAt f64, durability u8, lines raw32 }
@errors FENCED, LATE
]]

local function extend(keys, args)
  return settle(keys, args, function(call, sale, r, ref)
    if state_now(call, r) ~= RESERVATION.held then
      return STATUS.ended
    end
    if r.extensions >= sale.extensions or ref.seconds * 1000 > sale.extend_ms then
      return STATUS.not_allowed
    end
    if not has_room(call, 1) then
      return STATUS.overloaded
    end
    r.extended = r.extended + ref.seconds
    r.extensions = r.extensions + 1
    add_fact(call, FACT.extended, sale, ref.buyer, ref.key, r.seq, hold_end(r), r.durability, r.lines, '')
    change_buyer(sale, ref.buyer, 0, 0, ref.key, pack_record(r))
    add_due(call, sale, hold_end(r), ref.buyer, ref.key)
    return STATUS.ok
  end)
end
