--[[
read_line: how a sale's line stands, and whose tickets others have changed since `cursor`, the latest `news` that the reader has.

`missed` 1: there was more than is kept, or everybody is concerned: look at all tickets.

@flags no-writes
@args sale u32, cursor f64
@answer now f64, seq f64, waiting u32, inside u32, recentAdmitted u32, recentMs f64, ended u8, draw u8, news f64, missed u8, changed[u32] { buyer c12 }
@errors FENCED, LATE
]]

local function read_line(keys, args)
  local call, err = open_call(keys, args)
  if not call then
    return err
  end
  local no, cursor = struct.unpack('<I4d', args[1], HEADER_BYTES + 1)
  local room = load_room(call, no)
  local head = struct.pack('<dd', call.now, call.seq)
  if not room then
    return head .. room_view(nil) .. struct.pack('<dBI4', 0, 0, 0)
  end
  local buyers, missed = {}, 0
  if room.n.news > cursor then
    local entries = server.call('XRANGE', room.news_key, string.format('(%d-0', cursor), '+')
    if #entries < room.n.news - cursor then
      missed = 1
    end
    for i = 1, #entries do
      local whom = entries[i][2][2]
      if whom == '' then
        missed = 1
      end
      buyers[i] = whom
    end
  end
  local all = missed == 1 and '' or table.concat(buyers)
  return head .. room_view(room) .. struct.pack('<dBI4', room.n.news, missed, #all / ID_BYTES) .. all
end
