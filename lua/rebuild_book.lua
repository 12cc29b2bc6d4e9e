--[[
rebuild_book: remembers reservations of a sale, and units that buyers own, as the ledger has them.

A reservation is given as it stands, `forgetAt` 0 while it is held; `units` is what it still counts for its buyer. `owners`
have bought units by reservations that are no longer remembered.

@flags
@header none
@args token c12, no u32, owners { buyer c12, units u32 }, reservations { buyer c12, key c12, state u8, seq f64, expiresAt f64, extended u32, durability u8, extensions u8, forgetAt f64, units u32, lines raw32 }
@answer status u8
@errors FENCED
]]

local function rebuild_book(keys, args)
  local arg, read = args[1], struct.unpack
  local token, no, n, pos = read('<c12I4H', arg)
  local err = check_rebuild(keys[1], token)
  if err then
    return err
  end
  local owners, buyers, ids, rows = {}, {}, {}, {}
  for i = 1, n do
    local owner = {}
    owner.buyer, owner.units, pos = read('<c12I4', arg, pos)
    owners[i] = owner
  end
  n, pos = read('<H', arg, pos)
  for i = 1, n do
    local r = {}
    buyers[i], ids[i], r.state, r.seq, r.expires_at, r.extended, r.durability, r.extensions, r.forget_at, r.units, r.lines, pos =
      read('<c12c12BddI4BBdI4I4c0', arg, pos)
    rows[i] = r
  end
  local sale = rebuilt_sale(keys[1], no)
  local call = { prefix = string.sub(keys[1], 1, -6), due = {} }
  load_book(sale, buyers, ids)
  for i = 1, n do
    local r, held = rows[i], rows[i].state == RESERVATION.held
    local bought = r.state == RESERVATION.committed and r.units or 0
    change_buyer(sale, buyers[i], (held or bought > 0) and r.units or 0, bought, ids[i], pack_record(r))
    add_due(call, sale, held and hold_end(r) or r.forget_at, buyers[i], ids[i])
  end
  for _, owner in ipairs(owners) do
    if sale.book[owner.buyer] == nil then
      sale.book[owner.buyer] = server.call('HGET', sale.book_key, owner.buyer)
    end
    change_buyer(sale, owner.buyer, owner.units, owner.units)
  end
  save_sale(sale)
  write_due(call)
  return struct.pack('<B', STATUS.ok)
end
