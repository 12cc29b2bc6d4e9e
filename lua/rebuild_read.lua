--[[
rebuild_read: the entries that the fenced shard's outbox has after sequence `after`, oldest first.

@flags no-writes
@header none
@args token c12, after f64, max u16
@answer entries { id f64, body raw32 }
@errors FENCED
]]

local function rebuild_read(keys, args)
  local token, after, max = struct.unpack('<c12dH', args[1])
  local err = check_rebuild(keys[1], token)
  if err then
    return err
  end
  return pack_entries(string.sub(keys[1], 1, -6), after, max)
end
