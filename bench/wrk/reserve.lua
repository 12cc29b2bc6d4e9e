-- wrk: each request is a new buyer with a new key. Arguments: a file with a token a line, the sale, the SKU, what keys begin with,
-- and where it is given `again`: once all tokens were used, the same requests come again.
dofile(os.getenv('BENCH_WRK') .. '/report.lua')

local tokens, place, again = {}, 0, false
local head, body

function init(args)
  for line in io.lines(args[1]) do
    tokens[#tokens + 1] = line
  end
  again = args[5] == 'again'
  body = '{"saleId":"' .. args[2] .. '","lines":[{"sku":"' .. args[3] .. '","quantity":1}]}'
  head = 'POST /v1/reservations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: '
    .. #body .. '\r\nIdempotency-Key: ' .. args[4] .. '-'
end

function request()
  place = place + 1
  if again and place > #tokens then
    place = 1
  end
  local token = tokens[place]
  if not token then
    wrk.thread:stop()
    token = 'none'
  end
  return head .. place .. '\r\nAuthorization: Bearer ' .. token .. '\r\n\r\n' .. body
end
