--[[
return_units: puts sold units back on sale, once per `id`, and lowers the buyer's count.

`lines` names what comes back, by warehouse. Refused as insufficient when more would come back than was sold there or
than the buyer has bought. (A reservation that ended long ago is forgotten here: whether it had these lines is the caller's to
know, from the ledger.)

@flags
@args sale u32, buyer c12, key c12, seq f64, id str8, lines { sku str8, warehouse str8, quantity u16 }
@answer status u8
@errors FENCED, LATE
]]

local function return_units(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, buyer, key, seq, id, n, pos = struct.unpack('<I4c12c12dBc0H', args[1], HEADER_BYTES + 1)
  local lines = string.sub(args[1], pos)
  local sale = load_sale(call, no)
  if not sale then
    return struct.pack('<B', STATUS.unknown_sale)
  end
  local content = return_content(buyer, key, seq, lines)
  local done = server.call('HGET', sale.changes_key, id)
  if done then
    return struct.pack('<B', done == content and STATUS.replay or STATUS.mismatch)
  end
  local skus = {}
  local units = each_line(lines, function(sku)
    skus[#skus + 1] = sku
  end)
  assert(#skus == n, 'lines miscounted')
  load_items(sale, skus)
  load_book(sale, { buyer }, { key })
  local wanted = {} -- warehouse's stock -> units, so that two lines of one allotment are added up
  local known = true
  each_line(lines, function(sku, warehouse, quantity)
    local item = sale.items[sku]
    local w = item and find_warehouse(item, warehouse)
    if w then
      wanted[w] = (wanted[w] or 0) + quantity
    else
      known = false
    end
  end)
  if not known then
    return struct.pack('<B', STATUS.unknown_sku)
  end
  local _, bought = unpack_buyer(sale.book[buyer])
  local enough = bought >= units
  for w, quantity in pairs(wanted) do
    enough = enough and w.sold >= quantity
  end
  if not enough then
    return struct.pack('<B', STATUS.insufficient_stock)
  end
  if not has_room(call, 1) then
    return struct.pack('<B', STATUS.overloaded)
  end
  for w, quantity in pairs(wanted) do
    w.sold = w.sold - quantity
    w.on_hand = w.on_hand + quantity
  end
  for i = 1, #skus do
    sale.dirty_items[sale.items[skus[i]]] = true
  end
  change_buyer(sale, buyer, -units, -units)
  add_fact(call, FACT.returned, sale, buyer, key, seq, 0, sale.durability, lines, id)
  server.call('HSET', sale.changes_key, id, content)
  save_sale(sale)
  close_call(call)
  return struct.pack('<B', STATUS.ok)
end
