-- Sends each signed request of a file once, and prints a summary of the answers as JSON.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  file, size, exhausted = io.open(args[1], "rb"), tonumber(args[2]), 0
end

function request()
  local record = file:read(size)
  if not record then
    exhausted = exhausted + 1
    file:seek("set", 0)
    record = file:read(size)
  end
  return record
end

function done(summary, latency, requests)
  local errors, exhausted = summary.errors, 0
  for _, thread in ipairs(threads) do
    exhausted = exhausted + thread:get("exhausted")
  end
  io.write(string.format(
    '\n{"answers": %d, "seconds": %f, "refused": %d, "unanswered": %d, "exhausted": %s, '
      .. '"p50": %f, "p99": %f, "longest": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, tostring(exhausted > 0),
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, latency.max / 1e6))
end
