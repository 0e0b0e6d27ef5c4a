-- Send each file of a folder in turn, as it is: method, path, headers and body.
-- At the end, print the measurements as one line of JSON.
local requests, turn, pause = {}, 0, 0

function init(args)
  local folder, count = args[1], tonumber(args[2])
  pause = tonumber(args[3] or "0")
  for number = 0, count - 1 do
    local file = assert(io.open(folder .. "/" .. number, "rb"))
    requests[number] = file:read("*a")
    file:close()
  end
end

function request()
  local chosen = requests[turn % (#requests + 1)]
  turn = turn + 1
  return chosen
end

function delay()
  return pause
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
