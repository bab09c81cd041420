-- Fill, extend, vary or loop the selected item with a running `soundctm demo`, and place the answer on a new track.
-- A ReaScript; not yet run in Reaper. Its functions of Reaper are listed in README.md.

local ADDRESS = reaper.GetExtState("SoundCTM", "address")
if ADDRESS == "" then ADDRESS = "http://127.0.0.1:7860" end
local PATIENCE = 600 -- seconds

-- Talk to the app -----------------------------------------------------------------------------------------------------

local function quoted(text)
  return '"' .. text:gsub('["\\]', "\\%0"):gsub("%c", " ") .. '"'
end

-- Run curl and return its output. Reaper puts the exit code in the first line.
local function curl(arguments)
  local answer = reaper.ExecProcess("curl -sS --max-time " .. PATIENCE .. " " .. arguments, PATIENCE * 1000)
  local code, output = (answer or "-1\n"):match("^(%-?%d+)\r?\n(.*)$")
  if code ~= "0" then
    error("The app does not answer at " .. ADDRESS .. "; start it with: soundctm demo", 0)
  end
  return output
end

-- Call an endpoint with a JSON object, and return the JSON list of its answer.
local function call(endpoint, body)
  local address, name = ADDRESS .. "/gradio_api/call/v2/" .. endpoint, os.tmpname()
  local file = assert(io.open(name, "w"))
  file:write(body)
  file:close()
  local posted = curl('-H "Content-Type: application/json" --data-binary "@' .. name .. '" "' .. address .. '"')
  os.remove(name)
  local event = posted:match('"event_id"%s*:%s*"(%w+)"')
  if not event then error("The app refused the request: " .. posted, 0) end
  local answer = curl('-N "' .. address .. "/" .. event .. '"')
  local complete = answer:match("event: complete%s+data: ([^\r\n]*)")
  if not complete then error(answer:match('"error"%s*:%s*"(.-)"[,}]') or "The app made no sound.", 0) end
  return complete
end

-- Send a sound file and return it as JSON for other calls.
local function sent(path)
  local stored = curl('-F "files=@' .. path .. '" "' .. ADDRESS .. '/gradio_api/upload"'):match('%[%s*(".-[^\\]")')
  if not stored then error("The app did not accept " .. path .. "; it takes up to 20 MB.", 0) end
  return '{"path": ' .. stored .. ', "meta": {"_type": "gradio.FileData"}}'
end

-- Return the first JSON object in a text, from `start` on.
local function object(text, start)
  return text:match("%b{}", start)
end

local function recipe_of(path)
  local told = call("metadata", '{"file": ' .. sent(path) .. "}")
  local at = told:find('"recipe"', 1, true)
  return object(told, at)
end

local function recording_of(path)
  return object(call("upload", '{"file": ' .. sent(path) .. "}"))
end

-- Download the sound of an answer into the project's folder.
local function downloaded(answer)
  local address = answer:match('"url"%s*:%s*"(.-)"')
  local path = string.format("%s/soundctm-%d-%d.wav", reaper.GetProjectPath(), os.time(), math.random(99999))
  curl('-o "' .. path .. '" "' .. address .. '"')
  return path
end

-- The four actions ----------------------------------------------------------------------------------------------------

local function number(text, name)
  return tonumber(text) or error(name .. " is not a number: " .. text, 0)
end

local actions = {}

function actions.fill(item, prompt)
  local first, last = reaper.GetSet_LoopTimeRange(false, false, 0, 0, false)
  first, last = math.max(first, item.position), math.min(last, item.position + item.length)
  if last <= first then error("Select the time range to fill, inside the item.", 0) end
  -- Times in the file: the item may begin later in it, and play it faster.
  local from = item.offset + (first - item.position) * item.rate
  local to = item.offset + (last - item.position) * item.rate
  local span = string.format('"spans": [[%.3f, %.3f]], "seed": -1', from, to)
  return call("inpaint", '{"recipe": ' .. recording_of(item.path) .. ', "prompt": ' .. quoted(prompt) .. ", " .. span .. "}")
end

function actions.extend(item, prompt, amount)
  local more = string.format('"more": %g, "seed": -1', number(amount, "The number of seconds"))
  local recording = recording_of(item.path)
  return call("continue_sound", '{"recipe": ' .. recording .. ', "prompt": ' .. quoted(prompt) .. ", " .. more .. "}")
end

function actions.vary(item, _, amount)
  local distance = string.format('"amount": %g, "seed": -1', number(amount, "The distance"))
  return call("vary", '{"recipe": ' .. recipe_of(item.path) .. ", " .. distance .. "}")
end

function actions.loop(item)
  return call("loop", '{"recipe": ' .. recipe_of(item.path) .. "}")
end

-- Reaper --------------------------------------------------------------------------------------------------------------

local function selected_item()
  local item = reaper.GetSelectedMediaItem(0, 0)
  local take = item and reaper.GetActiveTake(item)
  if not take then error("Select an audio item first.", 0) end
  return {
    track = reaper.GetMediaItem_Track(item),
    path = reaper.GetMediaSourceFileName(reaper.GetMediaItemTake_Source(take)),
    position = reaper.GetMediaItemInfo_Value(item, "D_POSITION"),
    length = reaper.GetMediaItemInfo_Value(item, "D_LENGTH"),
    offset = reaper.GetMediaItemTakeInfo_Value(take, "D_STARTOFFS"),
    rate = reaper.GetMediaItemTakeInfo_Value(take, "D_PLAYRATE"),
  }
end

-- Place a file on a new track below the item. Filled and extended sounds begin where the item begins in its file.
local function place(path, item, action)
  local index = math.floor(reaper.GetMediaTrackInfo_Value(item.track, "IP_TRACKNUMBER"))
  reaper.InsertTrackAtIndex(index, true)
  local source = reaper.PCM_Source_CreateFromFile(path)
  local length = reaper.GetMediaSourceLength(source)
  local new = reaper.AddMediaItemToTrack(reaper.GetTrack(0, index))
  local take = reaper.AddTakeToMediaItem(new)
  reaper.SetMediaItemTake_Source(take, source)
  if action == "fill" or action == "extend" then
    reaper.SetMediaItemTakeInfo_Value(take, "D_STARTOFFS", item.offset)
    reaper.SetMediaItemTakeInfo_Value(take, "D_PLAYRATE", item.rate)
    length = (length - item.offset) / item.rate
    if action == "fill" then length = math.min(length, item.length) end
  end
  reaper.SetMediaItemInfo_Value(new, "D_POSITION", item.position)
  reaper.SetMediaItemInfo_Value(new, "D_LENGTH", length)
  reaper.SetMediaItemInfo_Value(new, "B_LOOPSRC", action == "loop" and 1 or 0)
  reaper.UpdateArrange()
end

local function main()
  local item = selected_item()
  local asked = "Action: fill extend vary loop,What is new,Seconds to add / distance 0-1,extrawidth=200"
  local is_ok, answers = reaper.GetUserInputs("SoundCTM", 3, asked, "fill,rain on a tin roof,0.3")
  if not is_ok then return end
  local action, prompt, amount = answers:match("^%s*(%a*)%s*,(.*),([^,]*)$")
  local work = actions[action] or error("The action is fill, extend, vary or loop.", 0)
  local path = downloaded(work(item, prompt, amount))
  reaper.Undo_BeginBlock()
  place(path, item, action)
  reaper.Undo_EndBlock("SoundCTM: " .. action, -1)
end

local is_done, message = pcall(main)
if not is_done then reaper.ShowMessageBox(tostring(message), "SoundCTM", 0) end
