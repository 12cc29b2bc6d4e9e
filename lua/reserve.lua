--[[
reserve: holds units for buyers; many requests a call, several lines a request, all lines of a request or none.

A request whose key the buyer has used in this sale is answered as it was the first time, or as a mismatch. One that is
refused changes nothing and does not hurt its neighbours; requests are decided in the order given, and see each other.
What a request wants is a basket, named by its place: a sale and lines of different SKUs; in a hot sale all want the same.

A result's `ref` names, if it is granted (`ok`, `replay`), the grant: what it shares with others, `seq` being the sequence
of the first result that names it, and each further one's the next. Else it is the line that a refusal speaks of.

`tickets`: of the sales that have a waiting room, the number of the ticket with which each buyer was let in, 0 for none; empty where
nobody brings one. What is granted uses the ticket up.

@flags
@args baskets { sale u32, lines { sku str8, quantity u16 } }, wanted u16*, buyers c12*, keys c12*, tickets f64*
@answer now f64, seq f64, grants { seq f64, expiresAt f64, durability u8, lines raw32 }, results { status u8, ref u16 }
@errors FENCED, LATE
]]

-- The call's baskets with their sale and stock, both read; and where the requests begin.
local function read_baskets(call, arg)
  local read = struct.unpack
  local baskets, skus_of = {}, {}
  local n, pos = read('<H', arg, HEADER_BYTES + 1)
  for i = 0, n - 1 do
    local no, count
    no, count, pos = read('<I4H', arg, pos)
    local sale = load_sale(call, no)
    local basket = { sale = sale, units = 0, skus = {}, quantities = {} }
    skus_of[no] = skus_of[no] or {}
    for line = 1, count do
      local sku, quantity
      sku, quantity, pos = read('<Bc0H', arg, pos)
      basket.skus[line], basket.quantities[line] = sku, quantity
      basket.units = basket.units + quantity
      table.insert(skus_of[no], sku)
    end
    baskets[i] = basket
  end
  for no, sale in pairs(call.sales) do
    load_items(sale, skus_of[no])
    sale.open = is_open(sale, call.now)
  end
  for i = 0, n - 1 do
    local basket = baskets[i]
    for line = 1, basket.sale and #basket.skus or 0 do
      local item = basket.sale.items[basket.skus[line]]
      basket[line] = item
      if not item and not basket.unknown then
        basket.unknown = line - 1
      end
    end
  end
  return baskets, pos
end

-- The first answer again, if the body is the same: the same units of the same SKUs.
local function replay(call, basket, packed)
  local r = unpack_record(packed)
  local wanted = {}
  for line = 1, #basket.skus do
    wanted[basket.skus[line]] = basket.quantities[line]
  end
  each_line(r.lines, function(sku, _, quantity)
    wanted[sku] = (wanted[sku] or 0) - quantity
  end)
  for _, left in pairs(wanted) do
    if left ~= 0 then
      return result(STATUS.mismatch, 0)
    end
  end
  return result(STATUS.replay, add_grant(call, r.seq, r.expires_at, r.durability, r.lines))
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

-- Takes `quantity` of an item: from the first warehouse that has it whole, else split in listed order. Returns the packed
-- lines, and the warehouse if it was one.
local function take(sale, item, quantity)
  item.available = item.available - quantity
  sale.dirty_items[item] = true
  for i = 1, #item do
    local w = item[i]
    local reserved = w.reserved + quantity
    if reserved <= w.on_hand then
      w.reserved = reserved
      return line_from(item, w, quantity), w
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

-- Why a request can't be granted, and for which line; nil when it can.
local function refusal(call, sale, basket, owned)
  if not sale.open then
    return STATUS.sale_not_open
  end
  if sale.per_buyer > 0 and owned + basket.units > sale.per_buyer then
    return STATUS.purchase_limit
  end
  local short
  for line = 1, #basket do
    local available = basket[line].available
    if available < basket.quantities[line] then
      if available <= 0 then
        return STATUS.sold_out, line - 1
      end
      short = short or line - 1
    end
  end
  if short then
    return STATUS.insufficient_stock, short
  end
  if call.room < 1 then
    return STATUS.overloaded
  end
  return nil
end

-- Decides a request; returns its result, and the warehouse if it serves one line whole.
local function decide(call, i)
  local basket, buyer, key = call.baskets[call.wanted[i]], call.buyers[i], call.keys[i]
  local sale = basket.sale
  if not sale then
    return result(STATUS.unknown_sale, 0)
  end
  if basket.unknown then
    return result(STATUS.unknown_sku, basket.unknown)
  end
  local packed = find_record(sale, buyer, key)
  if packed then
    return replay(call, basket, packed)
  end
  local room = sale.room
  if room and not is_admitted(room, buyer, call.tickets[i] or 0) then
    return result(STATUS.not_admitted, 0)
  end
  local owned = unpack_buyer(sale.book[buyer])
  local status, line = refusal(call, sale, basket, owned)
  if status then
    return result(status, line or 0)
  end
  if room then
    use_ticket(room, buyer)
  end
  if #basket == 1 then
    local lines, w = take(sale, basket[1], basket.units)
    -- What lets this one in to a sale with a waiting room does not let the next one in.
    return grant(call, i, basket, lines), not room and w
  end
  local parts = {}
  for at = 1, #basket do
    parts[at] = take(sale, basket[at], basket.quantities[at])
  end
  return grant(call, i, basket, table.concat(parts))
end

-- Reads what the book has of the buyers of each sale.
local function load_buyers(call)
  local of = {}
  for i = 1, #call.wanted do
    local sale = call.baskets[call.wanted[i]].sale
    if sale then
      local asked = of[sale] or { buyers = {}, keys = {} }
      of[sale] = asked
      local at = #asked.buyers + 1
      asked.buyers[at], asked.keys[at] = call.buyers[i], call.keys[i]
    end
  end
  for sale, asked in pairs(of) do
    load_book(sale, asked.buyers, asked.keys)
    if open_room(call, sale) then
      load_tickets(sale.room, asked.buyers)
    end
  end
end

local function reserve(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local arg = args[1]
  local baskets, pos = read_baskets(call, arg)
  local n = struct.unpack('<H', arg, pos)
  call.baskets = baskets
  call.wanted, pos = read_column(arg, pos + 2, 'H', n)
  call.buyers, pos = read_column(arg, pos + 2, 'c12', n)
  call.keys, pos = read_column(arg, pos + 2, 'c12', n)
  call.tickets = read_column(arg, pos + 2, 'd', (struct.unpack('<H', arg, pos)))
  call.grants, call.runs, call.results, call.bytes = {}, {}, {}, one_byte_strings()
  call.room = holds_left(call)
  if baskets[0] and not baskets[1] and baskets[0].sale and not baskets[0].sale.rules then
    load_book(baskets[0].sale, call.buyers, call.keys)
  else
    load_buyers(call)
  end

  local i = 1
  while i <= n do
    local warehouse
    call.results[i], warehouse = decide(call, i)
    if warehouse then
      i = grant_alike(call, i, call.baskets[call.wanted[i]], warehouse)
    end
    i = i + 1
  end

  end_runs(call)
  for _, sale in pairs(call.sales) do
    save_sale(sale)
  end
  close_call(call)
  return struct.pack('<ddH', call.now, call.seq, #call.grants)
    .. table.concat(call.grants) .. struct.pack('<H', n) .. table.concat(call.results)
end
