-- A sale's rules, its stock, and the lines of a reservation.

-- Lua's C stack takes about 8,000 values: longer argument lists go in pieces of an even length.
local CHUNK = 4000

local function in_chunks(command, key, list)
  for first = 1, #list, CHUNK do
    server.call(command, key, unpack(list, first, math.min(first + CHUNK - 1, #list)))
  end
end

-- HMGET of any length: field -> value or false, into `into`.
local function get_fields(key, fields, into)
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    local found = server.call('HMGET', key, unpack(fields, first, last))
    for i = first, last do
      into[fields[i]] = found[i - first + 1]
    end
  end
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
    'id', 'state', 'opens_at', 'closes_at', 'per_buyer', 'hold_ms', 'durability', 'extensions', 'extend_ms'
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
    stock_key = call.prefix .. 'stock:' .. name,
    book_key = call.prefix .. 'book:' .. name,
    changes_key = call.prefix .. 'changes:' .. name,
    items = {}, -- sku -> stock, or false
    book = {}, -- field -> value, or false
    dirty_items = {},
    dirty_book = {}, -- fields to write, in any order; one may stand there twice
  }
  call.sales[no] = sale
  return sale
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

-- Reads what isn't read yet of the sale's book. `fields` is a list.
local function load_book(sale, fields)
  get_fields(sale.book_key, fields, sale.book)
end

local function put_book(sale, field, value)
  sale.book[field] = value
  sale.dirty_book[#sale.dirty_book + 1] = field
end

-- Units that a buyer holds and owns, and how many of them are bought. Kept as `units`, or `units:bought`.
local function units_of(sale, buyer)
  local text = sale.book[buyer]
  if not text then
    return 0, 0
  end
  local units = tonumber(text)
  if units then
    return units, 0
  end
  local all, bought = string.match(text, '^(%d+):(%d+)$')
  return tonumber(all), tonumber(bought)
end

local function put_units(sale, buyer, units, bought)
  assert(units >= bought and bought >= 0, 'a buyer below zero')
  if bought > 0 then
    put_book(sale, buyer, string.format('%d:%d', units, bought))
  else
    put_book(sale, buyer, units > 0 and string.format('%d', units) or false)
  end
end

-- Writes what a call has changed of a sale's stock and book.
local function save_sale(sale)
  local stock = {}
  for item in pairs(sale.dirty_items) do
    stock[#stock + 1] = item.sku
    stock[#stock + 1] = pack_stock(item)
  end
  in_chunks('HSET', sale.stock_key, stock)
  local put, gone = {}, {}
  local fields, book = sale.dirty_book, sale.book
  for i = 1, #fields do
    local field = fields[i]
    local value = book[field]
    if value then
      put[#put + 1] = field
      put[#put + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  in_chunks('HSET', sale.book_key, put)
  in_chunks('HDEL', sale.book_key, gone)
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

-- The fact of a stock change: its note carries id, SKU, warehouse, units and reason.
local function add_change(call, sale, kind, id, sku, warehouse, units, reason)
  local note = struct.pack(
    '<Bc0Bc0Bc0dHc0', #id, id, #sku, sku, #warehouse, warehouse, units, #reason, reason
  )
  add_fact(call, kind, sale, NOBODY, NOBODY, 0, 0, sale.durability, '', note)
end
