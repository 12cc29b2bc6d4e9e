--[[
rebuild_clear: drops what the shard has, a bounded part a call; `more` is 1 while something is left.

The ledger must have everything that the outbox had.

@flags allow-oom
@header none
@args token c12
@answer more u8
@errors FENCED
]]

local BUCKETS = 500
local SALES = 100

local function rebuild_clear(keys, args)
  local err = check_rebuild(keys[1], args[1])
  if err then
    return err
  end
  local prefix = string.sub(keys[1], 1, -6)
  local buckets = server.call('ZRANGE', prefix .. 'due', 0, BUCKETS - 1)
  for _, bucket in ipairs(buckets) do
    server.call('UNLINK', prefix .. 'due:' .. bucket)
    server.call('ZREM', prefix .. 'due', bucket)
  end
  local sales = server.call('HRANDFIELD', prefix .. 'sales', SALES, 'WITHVALUES')
  for i = 1, #sales, 2 do
    for _, kind in ipairs({ 'sale:', 'stock:', 'book:', 'changes:' }) do
      server.call('UNLINK', prefix .. kind .. sales[i + 1])
    end
    server.call('HDEL', prefix .. 'sales', sales[i])
  end
  if #buckets == BUCKETS or #sales == 2 * SALES then
    return struct.pack('<B', 1)
  end
  server.call('UNLINK', prefix .. 'outbox')
  server.call('DEL', keys[1])
  server.call('HSET', keys[1], 'building', args[1], 'epoch', 0)
  return struct.pack('<B', 0)
end
