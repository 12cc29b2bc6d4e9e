--[[
snapshot: the shard's sequence and all its counters at one moment, for reconcile.

@flags no-writes
@args
@answer now f64, epoch u32, seq f64, live f64, sales[u32] { no u32, id str8, stock[u32] { sku str8, warehouse str8, onHand u32, reserved u32, sold u32 } }
@errors FENCED, LATE
]]

local function snapshot(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local all = server.call('HGETALL', call.prefix .. 'sales')
  local parts = { struct.pack('<dI4ddI4', call.now, call.epoch, call.seq, call.live, #all / 2) }
  for i = 1, #all, 2 do
    local no = tonumber(all[i + 1])
    parts[#parts + 1] = struct.pack('<I4Bc0', no, #all[i], all[i]) .. pack_all_stock(call.prefix, no)
  end
  return table.concat(parts)
end
