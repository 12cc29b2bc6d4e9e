--[[
put_sale: makes a sale with its opening stock, or changes its rules.

`settings` is the sale as the operator gave it, kept for readers and not looked at here. Stock counts only when the sale
is made: later `digest` must be the same or empty (no stock given), else `conflict`, and nothing changes. A new sale
without stock is `unknown_sale`. Times are ms, 0 for none; `perBuyer` 0 for no limit. `expected`: the settings that it has, or
empty for whatever they are; others are `changed`. `room`: the waiting room's rules (includes/25-room.lua), empty for none; once it has
given a ticket, it stays, and so do its lanes and whether places are drawn (`not_allowed`). `seed` is that of the draw, if there is none yet.

@flags
@args id str8, settings str16, digest str8, opensAt f64, closesAt f64, perBuyer u32, holdMs f64, durability u8, extensions u16, extendMs f64, room raw32, expected str16, seed str8, stock[u32] { sku str8, warehouse str8, quantity u32 }
@answer status u8, no u32, created u8
@errors FENCED, LATE
]]

local MAX_SALES = 100000
local MAX_ROOMS = 100 -- limits.roomsPerShard: each is tended ten times a second

local function answer(status, no, created)
  return struct.pack('<BI4B', status, no, created)
end

-- Whether people who have tickets already could wait on in a room with these rules.
local function keeps_line(call, no, rules)
  local room = open_room(call, load_sale(call, no))
  if not room or room.n.next == 0 then
    return true
  end
  if rules == '' then
    return false
  end
  local order, _, _, _, _, _, _, _, lanes, pos = struct.unpack(RULES, rules)
  if #room.weights ~= lanes or (room.order == ORDER.shuffle) ~= (order == ORDER.shuffle) then
    return false
  end
  for lane = 1, lanes do
    local _, name, after = struct.unpack(LANE, rules, pos)
    pos = after
    if name ~= room.lane_names[lane] then
      return false
    end
  end
  return true
end

local function put_sale(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local id, settings, digest, opens_at, closes_at, per_buyer, hold_ms, durability, extensions, extend_ms, rules, expected, seed, n, pos =
    struct.unpack('<Bc0Hc0Bc0ddI4dBHdI4c0Hc0Bc0I4', args[1], HEADER_BYTES + 1)
  local sales_key = call.prefix .. 'sales'
  local known = server.call('HGET', sales_key, id)
  local no = tonumber(known or server.call('HLEN', sales_key) + 1)
  local sale_key = call.prefix .. 'sale:' .. string.format('%d', no)
  if known then
    local opened_with = server.call('HGET', sale_key, 'digest')
    if digest ~= '' and digest ~= opened_with then
      return answer(STATUS.conflict, no, 0)
    end
    digest = opened_with
    if expected ~= '' and server.call('HGET', sale_key, 'settings') ~= expected then
      return answer(STATUS.changed, no, 0)
    end
    if not keeps_line(call, no, rules) then
      return answer(STATUS.not_allowed, no, 0)
    end
    call.sales[no] = nil
  elseif digest == '' then
    return answer(STATUS.unknown_sale, 0, 0)
  elseif no > MAX_SALES then
    return answer(STATUS.too_many, 0, 0)
  end
  if rules ~= '' and server.call('SCARD', call.prefix .. 'rooms') >= MAX_ROOMS then
    return answer(STATUS.too_many, 0, 0)
  end
  if not has_room(call, 1 + n) then
    return answer(STATUS.overloaded, 0, 0)
  end

  local opening = {}
  for i = 1, n do
    local row = {}
    row.sku, row.warehouse, row.quantity, pos = struct.unpack('<Bc0Bc0I4', args[1], pos)
    opening[i] = row
  end
  write_sale(sale_key, {
    id = id, settings = settings, digest = digest, opens_at = opens_at, closes_at = closes_at, per_buyer = per_buyer,
    hold_ms = hold_ms, durability = durability, extensions = extensions, extend_ms = extend_ms,
    room = rules,
    state = tonumber(known and server.call('HGET', sale_key, 'state')) or SALE.open,
  })
  if not known then
    server.call('HSET', sales_key, id, no)
  end
  write_room(call.prefix, no, rules, seed, call.now)
  local sale = load_sale(call, no)
  add_fact(call, FACT.sale_set, sale, NOBODY, NOBODY, 0, 0, durability, '', struct.pack('<Hc0Bc0', #settings, settings, #digest, digest))
  if not known then
    for i = 1, n do
      local row = opening[i]
      local item = sale.items[row.sku] or { sku = row.sku }
      sale.items[row.sku] = item
      sale.dirty_items[item] = true
      local w = { name = row.warehouse, on_hand = row.quantity, reserved = 0, sold = 0 }
      item[#item + 1] = w
      add_change(call, sale, FACT.restocked, 'opening', row.sku, w, row.quantity, 'opening stock')
    end
    save_sale(sale)
  end
  close_call(call)
  return answer(STATUS.ok, no, known and 0 or 1)
end
