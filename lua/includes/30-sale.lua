-- A sale's rules, its stock, and the lines of a reservation.

-- Writes a sale's rules: numbers and texts by field.
local function write_sale(key, rules)
  local fields = {}
  for field, value in pairs(rules) do
    fields[#fields + 1] = field
    fields[#fields + 1] = type(value) == 'number' and string.format('%.0f', value) or value
  end
  server.call('HSET', key, unpack(fields))
end

-- The sale's rules by its number, once a call; nil where there is none.
local function load_sale(call, no)
  local sale = call.sales[no]
  if sale then
    return sale
  end
  local name = string.format('%d', no)
  local h = server.call(
    'HMGET', call.prefix .. 'sale:' .. name,
    'id', 'state', 'opens_at', 'closes_at', 'per_buyer', 'hold_ms', 'durability', 'extensions', 'extend_ms', 'room'
  )
  if not h[1] then
    return nil
  end
  sale = {
    no = no,
    id = h[1],
    state = tonumber(h[2]),
    opens_at = tonumber(h[3]),
    closes_at = tonumber(h[4]),
    per_buyer = tonumber(h[5]),
    hold_ms = tonumber(h[6]),
    durability = tonumber(h[7]),
    extensions = tonumber(h[8]),
    extend_ms = tonumber(h[9]),
    rules = h[10] and h[10] ~= '' and h[10] or nil, -- of its waiting room, packed (25-room.lua)
    stock_key = call.prefix .. 'stock:' .. name,
    book_key = call.prefix .. 'book:' .. name,
    changes_key = call.prefix .. 'changes:' .. name,
    items = {}, -- sku -> stock, or false
    book = {}, -- field -> value; nil or false where there is none
    dirty_items = {},
    parts = {}, -- lines -> what they name (parts_of)
    put = {}, -- field, value, … of the book to write: of a field that stands there twice the later counts
    gone = {}, -- fields of the book to drop
    ended_buyers = {}, -- of reservations that the call has ended
    ended_keys = {},
  }
  call.sales[no] = sale
  return sale
end

-- The waiting room of a sale by its number; nil where there is no such sale, or it has none.
local function load_room(call, no)
  local sale = load_sale(call, no)
  return sale and open_room(call, sale)
end

local function is_open(sale, now)
  return sale.state == SALE.open and now >= sale.opens_at and (sale.closes_at == 0 or now < sale.closes_at)
end

-- Stock of a SKU: for each warehouse, in serving order: name, on hand, reserved, sold.
local function unpack_stock(sku, packed)
  local item = { sku = sku, available = 0 }
  local pos, size = 1, #packed
  while pos <= size do
    local w = {}
    w.name, w.on_hand, w.reserved, w.sold, pos = struct.unpack('<Bc0I4I4I4', packed, pos)
    item.available = item.available + w.on_hand - w.reserved
    item[#item + 1] = w
  end
  return item
end

local function pack_stock(item)
  local parts = {}
  for i = 1, #item do
    local w = item[i]
    assert(w.on_hand >= w.reserved and w.reserved >= 0 and w.sold >= 0, 'stock below zero')
    parts[i] = struct.pack('<Bc0I4I4I4', #w.name, w.name, w.on_hand, w.reserved, w.sold)
  end
  return table.concat(parts)
end

-- Reads what isn't read yet of the sale's stock. `skus` is a list.
local function load_items(sale, skus)
  local missing, asked = {}, {}
  for i = 1, #skus do
    local sku = skus[i]
    if sale.items[sku] == nil and not asked[sku] then
      asked[sku] = true
      missing[#missing + 1] = sku
    end
  end
  local found = {}
  get_fields(sale.stock_key, missing, found)
  for sku, packed in pairs(found) do
    sale.items[sku] = packed and unpack_stock(sku, packed)
  end
end

local function find_warehouse(item, name)
  for i = 1, #item do
    if item[i].name == name then
      return item[i]
    end
  end
  return nil
end

-- Writes what a call has changed of a sale's stock, book and line.
local function save_sale(sale)
  local stock = {}
  for item in pairs(sale.dirty_items) do
    stock[#stock + 1] = item.sku
    stock[#stock + 1] = pack_stock(item)
  end
  in_chunks('HSET', sale.stock_key, stock)
  in_chunks('HSET', sale.book_key, sale.put)
  local gone = {}
  for i = 1, #sale.gone do
    -- What was dropped and then put again in the same call stays.
    if not sale.book[sale.gone[i]] then
      gone[#gone + 1] = sale.gone[i]
    end
  end
  in_chunks('HDEL', sale.book_key, gone)
  if sale.room then
    save_room(sale.room)
  end
end

local function pack_line(sku, warehouse, quantity)
  return struct.pack('<Bc0Bc0H', #sku, sku, #warehouse, warehouse, quantity)
end

-- Calls visit(sku, warehouse, quantity) for every line; returns the units of all.
local function each_line(lines, visit)
  local pos, size, units = 1, #lines, 0
  while pos <= size do
    local sku, warehouse, quantity
    sku, warehouse, quantity, pos = struct.unpack('<Bc0Bc0H', lines, pos)
    units = units + quantity
    visit(sku, warehouse, quantity)
  end
  return units
end

-- The fact of a stock change: its note carries id, SKU, warehouse, units, reason, and the warehouse's counters after it.
local function add_change(call, sale, kind, id, sku, w, units, reason)
  local note = struct.pack(
    '<Bc0Bc0Bc0dHc0I4I4I4', #id, id, #sku, sku, #w.name, w.name, units, #reason, reason, w.on_hand, w.reserved, w.sold
  )
  add_fact(call, kind, sale, NOBODY, NOBODY, 0, 0, sale.durability, '', note)
end

-- What a stock adjustment's id, and a return's, stands for: the same id with another content is a mismatch. An adjustment's
-- is followed by the counters that were answered.
local function adjust_content(sku, warehouse, delta)
  return table.concat({ 'adjust', sku, warehouse, string.format('%.0f', delta) }, '\0') .. '\0'
end
local function return_content(buyer, key, seq, lines)
  return table.concat({ 'return', buyer, key, string.format('%.0f', seq), lines }, '\0')
end
