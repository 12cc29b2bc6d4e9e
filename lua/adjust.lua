--[[
adjust: changes the units on hand of an allotment by `delta`, once per `id`: stock that came in, was lost, was counted.

Never below zero available. The same id again is answered as it was, the same id with another content as a mismatch.
With `open` 1 a positive delta may open an allotment that isn't there.

@flags
@args sale u32, id str8, sku str8, warehouse str8, delta f64, reason str16, open u8
@answer status u8, onHand u32, reserved u32, sold u32
@errors FENCED, LATE
]]

local MAX_UNITS = 1000000000

local function adjust(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, id, sku, warehouse, delta, reason, open = struct.unpack('<I4Bc0Bc0Bc0dHc0B', args[1], HEADER_BYTES + 1)
  local sale = load_sale(call, no)
  if not sale then
    return allotment_answer(STATUS.unknown_sale)
  end
  local content = adjust_content(sku, warehouse, delta)
  local done = server.call('HGET', sale.changes_key, id)
  if done then
    if string.sub(done, 1, #content) ~= content then
      return allotment_answer(STATUS.mismatch)
    end
    local w = {}
    w.on_hand, w.reserved, w.sold = struct.unpack('<I4I4I4', done, #content + 1)
    return allotment_answer(STATUS.replay, w)
  end
  load_items(sale, { sku })
  local item = sale.items[sku]
  local w = item and find_warehouse(item, warehouse)
  if not w then
    if open == 0 or delta <= 0 then
      return allotment_answer(STATUS.unknown_sku)
    end
    item = item or { sku = sku }
    w = { name = warehouse, on_hand = 0, reserved = 0, sold = 0 }
    item[#item + 1] = w
  end
  if w.on_hand - w.reserved + delta < 0 then
    return allotment_answer(STATUS.insufficient_stock, w)
  end
  if w.on_hand + w.sold + delta > MAX_UNITS then
    return allotment_answer(STATUS.too_many, w)
  end
  if not has_room(call, 1) then
    return allotment_answer(STATUS.overloaded, w)
  end
  w.on_hand = w.on_hand + delta
  sale.dirty_items[item] = true
  add_change(call, sale, delta > 0 and FACT.restocked or FACT.adjusted, id, sku, w, delta, reason)
  server.call('HSET', sale.changes_key, id, content .. struct.pack('<I4I4I4', w.on_hand, w.reserved, w.sold))
  save_sale(sale)
  close_call(call)
  return allotment_answer(STATUS.ok, w)
end
