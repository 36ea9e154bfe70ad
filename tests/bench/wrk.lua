-- For wrk: sends one kind of request, and prints what it found as one line of JSON.
-- wrk ... -s wrk.lua URL -- [METHOD [PAUSE [FILE OF THE BODY]]]; PAUSE: milliseconds before each request.

function init(arguments)
  if arguments[1] then
    wrk.method = arguments[1]
  end
  local pause = tonumber(arguments[2]) or 0
  if pause > 0 then
    delay = function()
      return pause
    end
  end
  if arguments[3] then
    local file = assert(io.open(arguments[3], "rb"))
    wrk.body = file:read("*a")
    file:close()
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "p999": %d, '
      .. '"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.duration,
    latency:percentile(50.0), latency:percentile(99.0), latency:percentile(99.9),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
