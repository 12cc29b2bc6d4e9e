-- wrk: each request joins a sale's line as a new buyer. Arguments: a file with a token a line, the sale.
dofile(os.getenv('BENCH_WRK') .. '/report.lua')

local tokens, place = {}, 0
local head

function init(args)
  for line in io.lines(args[1]) do
    tokens[#tokens + 1] = line
  end
  head = 'POST /v1/sales/' .. args[2] .. '/tickets HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n'
    .. 'Content-Length: 2\r\nAuthorization: Bearer '
end

function request()
  place = place + 1
  local token = tokens[place]
  if not token then
    wrk.thread:stop()
    token = 'none'
  end
  return head .. token .. '\r\n\r\n{}'
end
