-- wrk: every request is a new buyer with a new key. FILE holds a token a line; each thread takes its own share.
local threads = 0
function setup(thread)
  thread:set('index', threads)
  threads = threads + 1
end

local tokens, place, step = {}, 1, 1
function init(args)
  local wanted, of = index, tonumber(args[2])
  local i = 0
  for line in io.lines(args[1]) do
    if i % of == wanted then
      tokens[#tokens + 1] = line
    end
    i = i + 1
  end
  body = '{"saleId":"' .. args[3] .. '","lines":[{"sku":"hot","quantity":1}]}'
  head = 'POST /v1/reservations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: '
    .. #body .. '\r\nIdempotency-Key: k'
end

local created, refused = 0, 0
function request()
  local token = tokens[place]
  if not token then
    wrk.thread:stop()
    token = 'none'
  end
  place = place + 1
  return head .. place .. '\r\nAuthorization: Bearer ' .. token .. '\r\n\r\n' .. body
end

counts = {}
function response(status)
  counts[status] = (counts[status] or 0) + 1
end
