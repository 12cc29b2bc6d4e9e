-- Lists and texts, as Valkey and Lua's stack take them.

local ID_BYTES = 12 -- of a buyer, and of a key

local bytes
-- Number -> the string of that one byte. (Lua's libraries can't be reached while a function library is loaded.)
local function one_byte_strings()
  if not bytes then
    bytes = {}
    for i = 0, 255 do
      bytes[i] = string.char(i)
    end
  end
  return bytes
end

-- Lua's C stack takes about 8,000 values: longer argument lists go in pieces of an even length.
local CHUNK = 4000

-- Returns the last piece's answer.
local function in_chunks(command, key, list)
  local answer
  for first = 1, #list, CHUNK do
    answer = server.call(command, key, unpack(list, first, math.min(first + CHUNK - 1, #list)))
  end
  return answer
end

-- HMGET of any length: field -> value or false, into `into`.
local function get_fields(key, fields, into)
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    local found = server.call('HMGET', key, unpack(fields, first, last))
    for i = first, last do
      into[fields[i]] = found[i - first + 1]
    end
  end
end

-- Reads `n` (up to CHUNK) values of one format that follow one another; returns them and where they end. One call of
-- `struct` for all: measured, a third of what a call for each costs.
local function read_column(text, pos, format, n)
  local list = { struct.unpack('<' .. string.rep(format, n), text, pos) }
  local after = list[n + 1]
  list[n + 1] = nil
  return list, after
end
