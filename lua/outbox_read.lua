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
  return struct.pack('<dI4dd', call.now, call.epoch, call.seq, call.acked) .. pack_entries(call.prefix, after, max)
end
