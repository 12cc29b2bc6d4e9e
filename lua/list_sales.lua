--[[
list_sales: the ids of the shard's sales.

@flags no-writes
@args
@answer now f64, sales[u32] { no u32, id str8 }
@errors FENCED, LATE
]]

local function list_sales(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local all = server.call('HGETALL', call.prefix .. 'sales')
  local parts = { struct.pack('<dI4', call.now, #all / 2) }
  for i = 1, #all, 2 do
    parts[#parts + 1] = struct.pack('<I4Bc0', tonumber(all[i + 1]), #all[i], all[i])
  end
  return table.concat(parts)
end
