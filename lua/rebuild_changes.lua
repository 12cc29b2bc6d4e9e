--[[
rebuild_changes: remembers ids of a sale's stock adjustments and returns, so that none is done twice.

@flags
@header none
@args token c12, no u32, adjustments { id str8, sku str8, warehouse str8, delta f64, onHand u32, reserved u32, sold u32 }, returns { id str8, buyer c12, key c12, seq f64, lines raw32 }
@answer status u8
@errors FENCED
]]

local function rebuild_changes(keys, args)
  local arg, read = args[1], struct.unpack
  local token, no, n, pos = read('<c12I4H', arg)
  local err = check_rebuild(keys[1], token)
  if err then
    return err
  end
  local done = {}
  for _ = 1, n do
    local id, sku, warehouse, delta, on_hand, reserved, sold
    id, sku, warehouse, delta, on_hand, reserved, sold, pos = read('<Bc0Bc0Bc0dI4I4I4', arg, pos)
    done[#done + 1] = id
    done[#done + 1] = adjust_content(sku, warehouse, delta) .. struct.pack('<I4I4I4', on_hand, reserved, sold)
  end
  n, pos = read('<H', arg, pos)
  for _ = 1, n do
    local id, buyer, key, seq, lines
    id, buyer, key, seq, lines, pos = read('<Bc0c12c12dI4c0', arg, pos)
    done[#done + 1] = id
    done[#done + 1] = return_content(buyer, key, seq, lines)
  end
  in_chunks('HSET', rebuilt_sale(keys[1], no).changes_key, done)
  return struct.pack('<B', STATUS.ok)
end
