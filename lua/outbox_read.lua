--[[
outbox_read: the outbox's entries after sequence `after`, oldest first. An entry's id is the last sequence in it.

@flags no-writes
@args after f64, max u16
@answer now f64, epoch u32, seq f64, acked f64, entries { id f64, body raw32 }
@errors FENCED, LATE
]]

local function outbox_read(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local after, max = struct.unpack('<dH', args[1], HEADER_BYTES + 1)
  local entries = server.call('XRANGE', call.prefix .. 'outbox', string.format('(%.0f-0', after), '+', 'COUNT', max)
  local parts = { struct.pack('<dI4ddH', call.now, call.epoch, call.seq, call.acked, #entries) }
  for i = 1, #entries do
    local id = tonumber(string.match(entries[i][1], '^%d+'))
    local body = entries[i][2][2]
    parts[#parts + 1] = struct.pack('<dI4c0', id, #body, body)
  end
  return table.concat(parts)
end
