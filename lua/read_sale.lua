--[[
read_sale: a sale's settings, state and stock at one moment, and how far the ledger is. `state` 0: there is none.

`waitingSince`: when the oldest event was written that the ledger has not yet; 0 when it has all.

@flags no-writes
@args id str8
@answer now f64, seq f64, acked f64, waitingSince f64, no u32, state u8, settings str16, stock[u32] { sku str8, warehouse str8, onHand u32, reserved u32, sold u32 }
@errors FENCED, LATE
]]

local function read_sale(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local id = struct.unpack('<Bc0', args[1], HEADER_BYTES + 1)
  local head = struct.pack('<dddd', call.now, call.seq, call.acked, waiting_since(call))
  local no = server.call('HGET', call.prefix .. 'sales', id)
  if not no then
    return head .. struct.pack('<I4BHI4', 0, 0, 0, 0)
  end
  local sale = server.call('HMGET', call.prefix .. 'sale:' .. no, 'state', 'settings')
  return head
    .. struct.pack('<I4BHc0', tonumber(no), tonumber(sale[1]), #sale[2], sale[2])
    .. pack_all_stock(call.prefix, tonumber(no))
end
