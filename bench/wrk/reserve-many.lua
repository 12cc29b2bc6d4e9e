-- wrk: each request is a new buyer with a new key, who wants one of many SKUs in one of many sales, in turn. Arguments: a file with a
-- token a line, what sales begin with, how many sales, how many SKUs in each.
dofile(os.getenv('BENCH_WRK') .. '/report.lua')

local tokens, place = {}, 0
local sale, sales, skus

function init(args)
  for line in io.lines(args[1]) do
    tokens[#tokens + 1] = line
  end
  sale, sales, skus = args[2], tonumber(args[3]), tonumber(args[4])
end

function request()
  place = place + 1
  local token = tokens[place]
  if not token then
    wrk.thread:stop()
    token = 'none'
  end
  -- Neighbours want different things: of another sale, and there of another SKU.
  local body = '{"saleId":"' .. sale .. place % sales .. '","lines":[{"sku":"sku-' .. (place * 7919) % skus
    .. '","quantity":1}]}'
  return 'POST /v1/reservations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: ' .. #body
    .. '\r\nIdempotency-Key: ' .. sale .. '-' .. place .. '\r\nAuthorization: Bearer ' .. token .. '\r\n\r\n' .. body
end
