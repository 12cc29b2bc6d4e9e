--[[
correct: adds to the counters of an allotment, once per `id`, without a fact: for counters that differ from the ledger's.

The ledger is right and is not told. Refused as insufficient when a counter would come below zero, or less would be on hand
than is reserved.

@flags allow-oom
@args sale u32, id str8, sku str8, warehouse str8, onHand f64, reserved f64, sold f64
@answer status u8, onHand u32, reserved u32, sold u32
@errors FENCED, LATE
]]

local function correct(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, id, sku, warehouse, on_hand, reserved, sold = struct.unpack('<I4Bc0Bc0Bc0ddd', args[1], HEADER_BYTES + 1)
  local sale = load_sale(call, no)
  if not sale then
    return allotment_answer(STATUS.unknown_sale)
  end
  load_items(sale, { sku })
  local item = sale.items[sku] or { sku = sku, available = 0 }
  sale.items[sku] = item
  local w = find_warehouse(item, warehouse)
  if not w then
    w = { name = warehouse, on_hand = 0, reserved = 0, sold = 0 }
    item[#item + 1] = w
  end
  if server.call('HGET', sale.changes_key, id) then
    return allotment_answer(STATUS.replay, w)
  end
  if w.reserved + reserved < 0 or w.on_hand + on_hand < w.reserved + reserved or w.sold + sold < 0 then
    return allotment_answer(STATUS.insufficient_stock, w)
  end
  w.on_hand, w.reserved, w.sold = w.on_hand + on_hand, w.reserved + reserved, w.sold + sold
  sale.dirty_items[item] = true
  server.call('HSET', sale.changes_key, id, 'corrected')
  save_sale(sale)
  close_call(call)
  return allotment_answer(STATUS.ok, w)
end
