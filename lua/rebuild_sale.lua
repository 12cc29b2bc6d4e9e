--[[
rebuild_sale: makes a sale as the ledger has it: its rules, and a part of its stock (a large one takes several calls). Of its waiting
room the ledger has the rules alone: the line begins anew.

@flags
@header none
@args token c12, no u32, id str8, settings str16, digest str8, state u8, opensAt f64, closesAt f64, perBuyer u32, holdMs f64, durability u8, extensions u16, extendMs f64, room raw32, seed str8, stock[u32] { sku str8, warehouse str8, onHand u32, reserved u32, sold u32 }
@answer status u8
@errors FENCED
]]

local function rebuild_sale(keys, args)
  local token, no, id, settings, digest, state, opens_at, closes_at, per_buyer, hold_ms, durability, extensions, extend_ms, rules, seed, n, pos =
    struct.unpack('<c12I4Bc0Hc0Bc0BddI4dBHdI4c0Bc0I4', args[1])
  local err = check_rebuild(keys[1], token)
  if err then
    return err
  end
  local prefix, name = string.sub(keys[1], 1, -6), string.format('%d', no)
  write_sale(prefix .. 'sale:' .. name, {
    id = id, settings = settings, digest = digest, state = state, opens_at = opens_at, closes_at = closes_at,
    per_buyer = per_buyer, hold_ms = hold_ms, durability = durability, extensions = extensions, extend_ms = extend_ms,
    room = rules,
  })
  server.call('HSET', prefix .. 'sales', id, name)
  write_room(prefix, no, rules, seed, time_ms())
  local sale = rebuilt_sale(keys[1], no)
  local rows, skus = {}, {}
  for i = 1, n do
    local row = {}
    row.sku, row.name, row.on_hand, row.reserved, row.sold, pos = struct.unpack('<Bc0Bc0I4I4I4', args[1], pos)
    rows[i], skus[i] = row, row.sku
  end
  load_items(sale, skus)
  for _, row in ipairs(rows) do
    local item = sale.items[row.sku] or { sku = row.sku, available = 0 }
    sale.items[row.sku] = item
    sale.dirty_items[item] = true
    item[#item + 1] = row
  end
  save_sale(sale)
  return struct.pack('<B', STATUS.ok)
end
