-- wrk: another script, of which each connection waits before it asks, for a time around a mean, so that they don't march in step.
-- By itself, since wrk makes a timer for each request as soon as
-- there is a `delay`, be it of nothing, and that costs it a sixth of its time.
dofile(os.getenv('BENCH_WRK') .. '/' .. os.getenv('BENCH_PACED') .. '.lua')

local pause = tonumber(os.getenv('BENCH_PAUSE_MS'))

function delay()
  return math.random(0, 2 * pause)
end
