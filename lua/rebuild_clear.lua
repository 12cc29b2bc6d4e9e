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
  local full = false
  for _, kind in ipairs({ 'due', 'looks' }) do
    local buckets = server.call('ZRANGE', prefix .. kind, 0, BUCKETS - 1)
    for _, bucket in ipairs(buckets) do
      server.call('UNLINK', prefix .. kind .. ':' .. bucket)
      server.call('ZREM', prefix .. kind, bucket)
    end
    full = full or #buckets == BUCKETS
  end
  local sales = server.call('HRANDFIELD', prefix .. 'sales', SALES, 'WITHVALUES')
  for i = 1, #sales, 2 do
    local kinds = { 'sale:', 'stock:', 'book:', 'changes:', 'room:', 'tickets:', 'pool:', 'drawn:', 'news:' }
    for _, kind in ipairs(kinds) do
      server.call('UNLINK', prefix .. kind .. sales[i + 1])
    end
    for lane = 1, MOST_LANES do
      server.call('UNLINK', prefix .. 'line:' .. sales[i + 1] .. ':' .. lane)
    end
    server.call('HDEL', prefix .. 'sales', sales[i])
  end
  if full or #sales == 2 * SALES then
    return struct.pack('<B', 1)
  end
  server.call('UNLINK', prefix .. 'outbox', prefix .. 'rooms')
  server.call('DEL', keys[1])
  server.call('HSET', keys[1], 'building', args[1], 'epoch', 0)
  return struct.pack('<B', 0)
end
