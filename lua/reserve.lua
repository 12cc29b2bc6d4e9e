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
local function replay(request, packed, items)
  local r = unpack_record(packed)
  local wanted = {}
  for i = 1, #request.lines do
    local line = request.lines[i]
    wanted[items[line.item].sku] = line.quantity
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

-- Takes `quantity` of an item: from the first warehouse that has it whole, else split in listed order.
local function take(sale, item, quantity)
  item.available = item.available - quantity
  sale.dirty_items[item] = true
  for i = 1, #item do
    local w = item[i]
    if w.on_hand - w.reserved >= quantity then
      w.reserved = w.reserved + quantity
      return pack_line(item.sku, w.name, quantity)
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

local function decide(call, request, items)
  local sale = request.sale
  local field = request.buyer .. request.key
  local units = 0
  for i = 1, #request.lines do
    local line = request.lines[i]
    if not items[line.item].stock then
      return refused(STATUS.unknown_sku, line.item)
    end
    units = units + line.quantity
  end
  local packed = sale.book[field]
  if packed then
    return replay(request, packed, items)
  end
  if not is_open(sale, call.now) then
    return refused(STATUS.sale_not_open)
  end
  local owned = units_of(sale, request.buyer)
  if sale.per_buyer > 0 and owned + units > sale.per_buyer then
    return refused(STATUS.purchase_limit)
  end
  for i = 1, #request.lines do
    local line = request.lines[i]
    if items[line.item].stock.available <= 0 then
      return refused(STATUS.sold_out, line.item)
    end
  end
  for i = 1, #request.lines do
    local line = request.lines[i]
    if items[line.item].stock.available < line.quantity then
      return refused(STATUS.insufficient_stock, line.item)
    end
  end
  if not has_room(call, 2) then
    return refused(STATUS.overloaded)
  end

  local lines
  if #request.lines == 1 then
    lines = take(sale, items[request.lines[1].item].stock, request.lines[1].quantity)
  else
    local parts = {}
    for i = 1, #request.lines do
      parts[i] = take(sale, items[request.lines[i].item].stock, request.lines[i].quantity)
    end
    lines = table.concat(parts)
  end
  local expires_at = call.now + sale.hold_ms
  local seq = call.seq + 1
  add_fact(call, FACT.reserved, sale, request.buyer, request.key, seq, expires_at, sale.durability, lines, '')
  put_book(sale, field, struct.pack(RECORD, RESERVATION.held, seq, expires_at, 0, sale.durability, 0) .. lines)
  put_units(sale, request.buyer, owned + units)
  add_due(call, sale, expires_at, field)
  call.live = call.live + 1
  return struct.pack(RESULT, STATUS.ok, seq, expires_at, sale.durability, 0, #lines, lines)
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

  local requests = {}
  n, pos = read('<H', arg, pos)
  for i = 1, n do
    local request = {}
    local sale, line_count
    sale, request.buyer, request.key, line_count, pos = read('<Hc12c12H', arg, pos)
    request.sale = sales[sale]
    local fields = fields_of[sale]
    fields[#fields + 1] = request.buyer .. request.key
    fields[#fields + 1] = request.buyer
    local lines = {}
    for j = 1, line_count do
      local item, quantity
      item, quantity, pos = read('<HH', arg, pos)
      lines[j] = { item = item, quantity = quantity }
    end
    request.lines = lines
    requests[i] = request
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
    local request = requests[i]
    results[i] = request.sale and decide(call, request, items) or refused(STATUS.unknown_sale)
  end
  for _, sale in pairs(call.sales) do
    save_sale(sale)
  end
  close_call(call)
  return struct.pack('<ddH', call.now, call.seq, n) .. table.concat(results)
end
