--[[
reserve: holds units for buyers; many requests a call, several lines a request, all lines of a request or none.

A request whose key the buyer has used in this sale is answered as it was the first time, or as a mismatch. One that is
refused changes nothing and does not hurt its neighbours; requests are decided in the order given, and see each other.
Lines of a request name different items. `item` in a result is the line that a refusal speaks of.

@flags
@args sales { no u32 }, items { sale u16, sku str8 }, requests { sale u16, buyer c12, key c12, lines { item u16, quantity u16 } }
@answer now f64, seq f64, results { status u8, seq f64, expiresAt f64, durability u8, item u16, lines raw32 }
@errors FENCED, LATE
]]

local RESULT = '<BddBHI4c0'

local function refused(status, item)
  return struct.pack(RESULT, status, 0, 0, 0, item or 0, 0, '')
end

-- The first answer again, if the body is the same: the same units of the same SKUs.
local function replay(lines, packed, items)
  local r = unpack_record(packed)
  local wanted = {}
  for i = 1, #lines, 2 do
    wanted[items[lines[i]].sku] = lines[i + 1]
  end
  each_line(r.lines, function(sku, _, quantity)
    wanted[sku] = (wanted[sku] or 0) - quantity
  end)
  for _, left in pairs(wanted) do
    if left ~= 0 then
      return refused(STATUS.mismatch)
    end
  end
  return struct.pack(RESULT, STATUS.replay, r.seq, r.expires_at, r.durability, 0, #r.lines, r.lines)
end

-- The packed line of `quantity` units from a warehouse; in a hot sale nearly all are the same.
local function line_from(item, w, quantity)
  local ready = w.lines
  if not ready then
    ready = {}
    w.lines = ready
  end
  local line = ready[quantity]
  if not line then
    line = pack_line(item.sku, w.name, quantity)
    ready[quantity] = line
  end
  return line
end

-- Takes `quantity` of an item: from the first warehouse that has it whole, else split in listed order.
local function take(sale, item, quantity)
  item.available = item.available - quantity
  sale.dirty_items[item] = true
  for i = 1, #item do
    local w = item[i]
    local reserved = w.reserved + quantity
    if reserved <= w.on_hand then
      w.reserved = reserved
      return line_from(item, w, quantity)
    end
  end
  local parts = {}
  for i = 1, #item do
    local w = item[i]
    local part = math.min(quantity, w.on_hand - w.reserved)
    if part > 0 then
      w.reserved = w.reserved + part
      quantity = quantity - part
      parts[#parts + 1] = pack_line(item.sku, w.name, part)
    end
  end
  assert(quantity == 0, 'took more than there was')
  return table.concat(parts)
end

-- Why a request can't be granted, and for which item; nil when it can. `lines`: item, quantity, item, quantity, …
local function refusal(call, sale, lines, items, units, owned)
  if not sale.open then
    return STATUS.sale_not_open
  end
  if sale.per_buyer > 0 and owned + units > sale.per_buyer then
    return STATUS.purchase_limit
  end
  local short
  for i = 1, #lines, 2 do
    local available = items[lines[i]].stock.available
    if available < lines[i + 1] then
      if available <= 0 then
        return STATUS.sold_out, lines[i]
      end
      short = short or lines[i]
    end
  end
  if short then
    return STATUS.insufficient_stock, short
  end
  if not has_room(call, 2) then
    return STATUS.overloaded
  end
  return nil
end

-- What all reservations of a sale in this call have in common, packed once: their facts, records and results differ only
-- in buyer, key, sequence and lines. Measured: a third of the function's instructions less than packing each by itself.
local function prepare(call, sale)
  local pack = struct.pack
  local expires_at = call.now + sale.hold_ms
  local expiry = pack('<d', expires_at)
  local durability = pack('<B', sale.durability)
  sale.open = is_open(sale, call.now)
  sale.fact_head = pack('<BI4', FACT.reserved, sale.no)
  sale.fact_tail = expiry .. durability -- then lines and an empty note
  sale.record_head = pack('<B', RESERVATION.held)
  sale.record_tail = expiry .. pack('<I4', 0) .. durability .. pack('<B', 0) -- then lines
  sale.result_head = pack('<B', STATUS.ok)
  sale.result_tail = expiry .. durability .. pack('<H', 0) -- then lines
  sale.due = due_list(call, sale, expires_at)
end

local function grant(call, sale, buyer, field, units, bought, lines)
  local pack = struct.pack
  local seq = call.seq + 1
  call.seq = seq
  call.live = call.live + 1
  local packed_seq = pack('<d', seq)
  local sized = pack('<I4', #lines) .. lines
  call.facts[#call.facts + 1] = sale.fact_head .. field .. packed_seq .. sale.fact_tail .. sized .. '\0\0'
  sale.used = true
  local dirty, book, due = sale.dirty_book, sale.book, sale.due
  book[field] = sale.record_head .. packed_seq .. sale.record_tail .. lines
  dirty[#dirty + 1] = field
  if bought == 0 then
    -- What put_units does, for nearly every buyer.
    book[buyer] = units
    dirty[#dirty + 1] = buyer
  else
    put_units(sale, buyer, units, bought)
  end
  due[#due + 1] = field
  return sale.result_head .. packed_seq .. sale.result_tail .. sized
end

local function decide(call, sale, buyer, key, lines, items)
  local units = 0
  for i = 1, #lines, 2 do
    if not items[lines[i]].stock then
      return refused(STATUS.unknown_sku, lines[i])
    end
    units = units + lines[i + 1]
  end
  local field = buyer .. key
  local packed = sale.book[field]
  if packed then
    return replay(lines, packed, items)
  end
  local owned, bought = units_of(sale, buyer)
  local status, item = refusal(call, sale, lines, items, units, owned)
  if status then
    return refused(status, item)
  end
  if #lines == 2 then
    return grant(call, sale, buyer, field, owned + units, bought, take(sale, items[lines[1]].stock, lines[2]))
  end
  local parts = {}
  for i = 1, #lines, 2 do
    parts[#parts + 1] = take(sale, items[lines[i]].stock, lines[i + 1])
  end
  return grant(call, sale, buyer, field, owned + units, bought, table.concat(parts))
end

local function reserve(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local arg, read = args[1], struct.unpack
  local n, pos = read('<H', arg, HEADER_BYTES + 1)
  local sales, skus_of, fields_of = {}, {}, {}
  for i = 0, n - 1 do
    local no
    no, pos = read('<I4', arg, pos)
    sales[i] = load_sale(call, no)
    skus_of[i], fields_of[i] = {}, {}
    if sales[i] then
      prepare(call, sales[i])
    end
  end
  local sale_count = n

  local items = {}
  n, pos = read('<H', arg, pos)
  for i = 0, n - 1 do
    local sale, sku
    sale, sku, pos = read('<HBc0', arg, pos)
    items[i] = { sale = sale, sku = sku }
    table.insert(skus_of[sale], sku)
  end

  local sale_of, buyers, keys_of, lines_of = {}, {}, {}, {}
  n, pos = read('<H', arg, pos)
  for i = 1, n do
    local sale, buyer, key, count
    sale, buyer, key, count, pos = read('<Hc12c12H', arg, pos)
    local fields = fields_of[sale]
    fields[#fields + 1] = buyer .. key
    fields[#fields + 1] = buyer
    local lines
    if count == 1 then
      local item, quantity
      item, quantity, pos = read('<HH', arg, pos)
      lines = { item, quantity }
    else
      lines = {}
      for _ = 1, count do
        local item, quantity
        item, quantity, pos = read('<HH', arg, pos)
        lines[#lines + 1] = item
        lines[#lines + 1] = quantity
      end
    end
    sale_of[i], buyers[i], keys_of[i], lines_of[i] = sales[sale], buyer, key, lines
  end

  for i = 0, sale_count - 1 do
    if sales[i] then
      load_book(sales[i], fields_of[i])
      load_items(sales[i], skus_of[i])
    end
  end
  for _, item in pairs(items) do
    local sale = sales[item.sale]
    item.stock = sale and sale.items[item.sku]
  end

  local results = {}
  for i = 1, n do
    local sale = sale_of[i]
    results[i] = sale and decide(call, sale, buyers[i], keys_of[i], lines_of[i], items) or refused(STATUS.unknown_sale)
  end
  for _, sale in pairs(call.sales) do
    save_sale(sale)
  end
  close_call(call)
  return struct.pack('<ddH', call.now, call.seq, n) .. table.concat(results)
end
