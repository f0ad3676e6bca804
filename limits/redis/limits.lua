#!lua name=apihub_limits_v1
-- Redis' side of the fleet's limits: one batch of questions of one node in, one bulk string of answers out. The model that
-- it has to match to the unit is limits/src/central.rs; the layouts below are packed by limits/src/script/pack.rs.
-- Reads the clock of Redis alone, touches no key that was not declared, and writes only after everything was read and
-- checked: a malformed message is refused and changes nothing.
-- Every number is an integer below 2^53. floor(x / y) and ceil(x / y) are exact there.

local VERSION = 1
local ASKS_MAX = 128
local EXACT_MAX = 9007199254740991
local PER_MINUTE_MAX = 50000000
local BURST_MAX = 50000000

-- Units of one token: n requests a minute gain n units a microsecond.
local UNITS = 60000000
local LEASE_MAX_US = 500000
local REFUND_AGE_MAX_US = 706000
local WINDOW_US = 60000000
-- The sliding window: twelve whole parts of a minute and the life of a lease, and the part that is leaving.
local SUBS = 13
local SUB_US = 5041667
-- How far below full a key may be, in bursts.
local USED_BURSTS_MAX = 3
-- What a state outlives its refill or its window by.
local KEEP_US = 60000000
local LINK_TTL_US = 86400000000
-- Longer than any period: whoever has not counted for so long is in another one.
local QUOTA_TTL_S = 40 * 86400

local BUCKET, SLIDING, FIXED, NONE = 0, 1, 2, 3
local DONE, ADMITTED, SUPERSEDED, STALE = 0, 1, 2, 3
-- Flags of an ask, and of a state.
local HARD, WITH_QUOTA, WITH_REFUND = 4, 2, 1

-- version, node, epoch, birth, send, debts
local HEAD, HEAD_BYTES = '<Bc8I8c8I8I8', 41
-- key, revision, algorithm, flags, per_minute, burst, debt, want, period, included
local ASK, ASK_BYTES = '<c8I8BBI4I4I4I4I4I8', 74
-- tokens, granted_us, level, credited: the end of an ask
local REFUND, REFUND_AT = '<I4I8i8I8', 46
-- version, verdict, node, send, epoch, now_us
local ANSWER = '<BBc8I8I8I8'
-- key, tokens, level, credited, valid_us, wait_us, quota (0: none asked, 1: lost, 2: told), left
local GRANT = '<c8I4i8I8I4I8Bi8'
-- epoch, birth, send, debts, expires_us
local LINK, LINK_BYTES = '<dc8ddd', 40
-- kind, has a quota, revision, born_us, credited, per_minute, burst, used, mark, period, used of it, since_us.
-- used: units for a bucket, else tokens. mark: the moment, the window, or the newest sub-window to which it refers.
local STATE, STATE_BYTES = '<BBdddddddddd', 82
-- Of a sliding window, appended: its sub-windows, the newest first.
local COUNTS, COUNTS_BYTES = '<I4I4I4I4I4I4I4I4I4I4I4I4I4', 4 * SUBS
-- period, used
local SEED, SEED_BYTES = '<I4I8', 12

-- Lua's own functions, which Redis gives to calls and not yet to the loading of a library.
local floor, ceil, min, max, pack, read
-- Lives in seconds that are written often, as text.
local TEXT = {}

local function prepare()
  floor, ceil, min, max, pack, read = math.floor, math.ceil, math.min, math.max, struct.pack, struct.unpack
  for seconds = 1, 256 do TEXT[seconds] = tostring(seconds) end
end

local function text_of(seconds)
  return TEXT[seconds] or string.format('%.0f', seconds)
end

local function refuse(what)
  return redis.error_reply('LIMITS malformed ' .. what)
end

local function clock_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Judges a message by its numbers: verdict, epoch, whether its debts are new, and the link to be written.
local function admit(value, epoch, birth, send, debts, now)
  local known, known_birth, last, told, expires
  if value and #value == LINK_BYTES then
    known, known_birth, last, told, expires = read(LINK, value)
    if now >= expires then known = nil end
  end
  if epoch == 0 then
    if known and known_birth == birth then return ADMITTED, known, false, nil end
    epoch = (known or 0) + 1
    return ADMITTED, epoch, false, pack(LINK, epoch, birth, 0, 0, now + LINK_TTL_US)
  end
  if not known or known < epoch then known, known_birth, last, told = epoch, birth, 0, 0 end
  if known > epoch then return SUPERSEDED, 0, false, nil end
  if send <= last then return STALE, 0, false, nil end
  return DONE, 0, debts > told, pack(LINK, known, known_birth, send, max(told, debts), now + LINK_TTL_US)
end

-- When the key would be full and nothing that speaks of it can be under way.
local function expires_us(kind, rate, used, mark)
  if kind == BUCKET then return mark + ceil(used / rate) + KEEP_US end
  if kind == FIXED then return (mark + 1) * WINDOW_US + KEEP_US end
  return (mark + 2 * (SUBS - 1)) * SUB_US
end

-- Lets time pass for a window: used, mark.
local function settle_window(kind, used, mark, counts, now)
  if kind == FIXED then
    local window = floor(now / WINDOW_US)
    return window > mark and 0 or used, window
  end
  local head = floor(now / SUB_US)
  local steps = min(head - mark, SUBS)
  if steps > 0 then
    for age = SUBS, 1, -1 do
      if age > SUBS - steps then used = used - counts[age] end
      counts[age] = age > steps and counts[age - steps] or 0
    end
  end
  return used, head
end

-- The same fraction of another size, rounded up, under another algorithm: used, mark, counts.
local function rebase(kind, used, size, algorithm, burst, now)
  local units = kind == BUCKET and used or min(used, USED_BURSTS_MAX * size) * UNITS
  local whole = floor(units / size)
  units = whole * burst + ceil((units - whole * size) * burst / size)
  if algorithm == BUCKET then return units, now, nil end
  local tokens = ceil(units / UNITS)
  if algorithm == FIXED then return tokens, floor(now / WINDOW_US), nil end
  local counts = { tokens }
  for age = 2, SUBS do counts[age] = 0 end
  return tokens, floor(now / SUB_US), counts
end

-- What goes back in, and what is used then. For a bucket: no more than it would hold more had those tokens never left.
local function refund(kind, rate, size, used, mark, counts, credited, now, tokens, granted, level, told)
  if kind == FIXED then
    if floor(granted / WINDOW_US) ~= mark then return 0, used end
    tokens = min(tokens, used)
    return tokens, used - tokens
  end
  if kind == SLIDING then
    local age = mark - floor(granted / SUB_US) + 1
    if age < 1 or age > SUBS then return 0, used end
    tokens = min(tokens, counts[age])
    counts[age] = counts[age] - tokens
    return tokens, used - tokens
  end
  local full = size * UNITS
  local peak = level + (now - granted) * rate + max(credited - told, 0) * UNITS
  peak = min(max(peak, min(full - used, full)), full)
  tokens = min(tokens, floor((full - peak) / UNITS), floor(used / UNITS))
  return tokens, used - tokens * UNITS
end

-- When there will be a token if nobody takes one.
local function wait_us(kind, rate, size, used, mark, counts, now)
  if kind == BUCKET then
    local missing = UNITS - (size * UNITS - used)
    return missing > 0 and ceil(missing / rate) or 0
  end
  if used < size then return 0 end
  if kind == FIXED then return max((mark + 1) * WINDOW_US - now, 0) end
  local over = 1 - (size - used)
  for age = SUBS, 1, -1 do
    over = over - counts[age]
    if over <= 0 then return max((mark - age + 1 + SUBS) * SUB_US - now, 0) end
  end
  return WINDOW_US
end

-- Half of what is there, at least one, at most what is wanted.
local function offer(want, level)
  if want == 0 or level < 1 then return 0 end
  return min(want, max(floor(level / 2), 1))
end

local function exchange(keys, args)
  if not pack then prepare() end
  local call = redis.call
  local argument, asks = args[1], #keys - 1
  if #args ~= 1 or asks < 0 or asks > ASKS_MAX or #argument ~= HEAD_BYTES + asks * ASK_BYTES then
    return refuse('length')
  end
  local version, node, epoch, birth, send, debts = read(HEAD, argument)
  if version ~= VERSION or epoch > EXACT_MAX or send > EXACT_MAX or debts > EXACT_MAX then return refuse('head') end
  local now = clock_us()
  local held = call('MGET', unpack(keys))
  local verdict, admitted, debts_are_new, link = admit(held[1], epoch, birth, send, debts, now)
  local answer = { pack(ANSWER, VERSION, verdict, node, send, admitted, now) }
  if verdict ~= DONE then
    if link then call('SET', keys[1], link, 'PX', text_of(LINK_TTL_US / 1000)) end
    return answer[1]
  end

  -- What will be written, by name: a key may stand in a message twice.
  local written, values, lives = {}, {}, {}
  for ask = 1, asks do
    local at = HEAD_BYTES + (ask - 1) * ASK_BYTES + 1
    local key, revision, algorithm, flags, per_minute, burst, debt, want, period, included = read(ASK, argument, at)
    if
      revision > EXACT_MAX or included > EXACT_MAX or algorithm > FIXED or flags > 7
      or per_minute < 1 or per_minute > PER_MINUTE_MAX or burst < 1 or burst > BURST_MAX
    then
      return refuse('ask')
    end
    local hard, asks_quota, refunds = flags >= HARD, flags % HARD >= WITH_QUOTA, flags % 2 == WITH_REFUND

    -- The state as it stands, or a new one.
    local name = keys[ask + 1]
    local value = written[name] or held[ask + 1]
    local length = value and #value or 0
    local kind, counted, known, born, credited, rate, size, used, mark, month, spent, since = NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    local counts
    if length == STATE_BYTES or length == STATE_BYTES + COUNTS_BYTES then
      kind, counted, known, born, credited, rate, size, used, mark, month, spent, since = read(STATE, value)
      if length > STATE_BYTES then counts = { read(COUNTS, value, STATE_BYTES + 1) } end
      if (kind == SLIDING) ~= (counts ~= nil) then kind = NONE end
    end
    -- What cannot be read counts as lost.
    if kind >= NONE or now >= expires_us(kind, rate, used, mark) then
      kind, known, born, credited, rate, size = algorithm, revision, now, 0, per_minute, burst
      used, mark, counts = rebase(BUCKET, 0, 1, kind, size, now)
    end

    -- Time passes. Where it was set back, what was granted before cannot be dated any more.
    if kind == BUCKET then
      local elapsed = now - mark
      if elapsed < 0 then
        born = now
      elseif elapsed * rate < used then
        used = used - elapsed * rate
      else
        used = 0
      end
      mark = now
    else
      local before = mark
      used, mark = settle_window(kind, used, mark, counts, now)
      if mark < before then born = now end
    end
    if revision > known then
      used, mark, counts = rebase(kind, used, size, algorithm, burst, now)
      kind, known, born, rate, size = algorithm, revision, now, per_minute, burst
    end

    -- Debts, then what comes back.
    if not debts_are_new then debt = 0 end
    if debt > 0 then
      if kind == BUCKET then
        used = min(used + debt * UNITS, USED_BURSTS_MAX * size * UNITS)
      elseif kind == FIXED then
        used = min(used + debt, USED_BURSTS_MAX * size)
      else
        local newest = min(counts[1] + debt, USED_BURSTS_MAX * size)
        used, counts[1] = used + newest - counts[1], newest
      end
    end
    local back, granted = 0, 0
    if refunds then
      local tokens, level, told
      tokens, granted, level, told = read(REFUND, argument, at + REFUND_AT)
      if granted > EXACT_MAX or level > EXACT_MAX or level < -EXACT_MAX or told > EXACT_MAX then return refuse('refund') end
      if granted >= born and granted <= now and now - granted <= REFUND_AGE_MAX_US then
        back, used = refund(kind, rate, size, used, mark, counts, credited, now, tokens, granted, level, told)
        credited = credited + back
      end
    end

    -- The month, where its count is known.
    local left
    if counted == 1 then
      if asks_quota and period > month then month, spent, since = period, 0, now end
      spent = spent + debt
      if back > 0 and granted >= since then spent = max(spent - back, 0) end
      left = included - spent
    end

    -- The grant.
    local level = kind == BUCKET and size * UNITS - used or max(size - used, (1 - USED_BURSTS_MAX) * size) * UNITS
    local tokens = offer(want, level / UNITS)
    if tokens > 0 then
      if left and asks_quota and hard then tokens = min(tokens, offer(want, left)) end
      used = used + (kind == BUCKET and tokens * UNITS or tokens)
      level = level - tokens * UNITS
      if counts then counts[1] = counts[1] + tokens end
      if counted == 1 then
        spent, left = spent + tokens, left - tokens
      end
    end
    local quota = asks_quota and (left and 2 or 1) or 0
    local valid = kind == FIXED and min(max((mark + 1) * WINDOW_US - now, 0), LEASE_MAX_US) or LEASE_MAX_US
    local wait = level >= UNITS and 0 or wait_us(kind, rate, size, used, mark, counts, now)
    answer[ask + 1] = pack(GRANT, key, tokens, level, credited, valid, wait, quota, quota == 2 and left or 0)

    value = pack(STATE, kind, counted, known, born, credited, rate, size, used, mark, month, spent, since)
    if counts then value = value .. pack(COUNTS, unpack(counts, 1, SUBS)) end
    local life = ceil((expires_us(kind, rate, used, mark) - now) / 1000000) + 1
    if counted == 1 then life = max(life, QUOTA_TTL_S) end
    written[name], values[ask], lives[ask] = value, value, text_of(life)
  end

  call('SET', keys[1], link, 'PX', text_of(LINK_TTL_US / 1000))
  for ask = 1, asks do call('SET', keys[ask + 1], values[ask], 'EX', lives[ask]) end
  return table.concat(answer)
end

-- Puts a lost count of a period back; 1 if it was lost.
local function seed(keys, args)
  if not pack then prepare() end
  if #keys ~= 1 or #args ~= 1 or #args[1] ~= SEED_BYTES then return refuse('seed') end
  local period, spent = read(SEED, args[1])
  if spent > EXACT_MAX then return refuse('seed') end
  local now = clock_us()
  local value = redis.call('GET', keys[1])
  local life, rest = 0, ''
  local kind, counted, known, born, credited, rate, size, used, mark, month = NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0
  if value and #value >= STATE_BYTES then
    kind, counted, known, born, credited, rate, size, used, mark, month = read(STATE, value)
    rest = string.sub(value, STATE_BYTES + 1)
    if kind < NONE then life = ceil((expires_us(kind, rate, used, mark) - now) / 1000000) + 1 end
  end
  if counted == 1 and month >= period then return 0 end
  value = pack(STATE, kind, 1, known, born, credited, rate, size, used, mark, period, spent, now)
  redis.call('SET', keys[1], value .. rest, 'EX', text_of(max(life, QUOTA_TTL_S)))
  return 1
end

redis.register_function('apihub_limits_v1_exchange', exchange)
redis.register_function('apihub_limits_v1_seed', seed)
