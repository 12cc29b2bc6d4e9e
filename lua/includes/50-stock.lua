-- All stock of a sale: count, then SKU, warehouse, on hand, reserved, sold of each allotment.
local function pack_all_stock(prefix, no)
  local all = server.call('HGETALL', prefix .. 'stock:' .. string.format('%d', no))
  local parts, count = { '' }, 0
  for i = 1, #all, 2 do
    local sku = all[i]
    local item = unpack_stock(sku, all[i + 1])
    for j = 1, #item do
      local w = item[j]
      count = count + 1
      parts[#parts + 1] = struct.pack(
        '<Bc0Bc0I4I4I4', #sku, sku, #w.name, w.name, w.on_hand, w.reserved, w.sold
      )
    end
  end
  parts[1] = struct.pack('<I4', count)
  return table.concat(parts)
end

-- How a change of one allotment is answered: status, and its counters then.
local function allotment_answer(status, w)
  return struct.pack('<BI4I4I4', status, w and w.on_hand or 0, w and w.reserved or 0, w and w.sold or 0)
end
