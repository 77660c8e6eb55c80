%% SPDX-License-Identifier: Apache-2.0
%% Processes that stand for the connections of WebSocket sessions: they note what the fan-out sends,
%% and take frames at once or when they are told to.
-module(hornbeam_test_session).

-export([start/1]).
-export([start/2]).
-export([take/2]).
-export([seen/1]).
-export([seen/2]).
-export([await_seen/2]).
-export([text/1]).

-define(STREAM_ID, 1).

%% `quick' takes each frame as it comes, `slow' only what it is told to take/2. The session's key.
start(Mode) ->
    start(Mode, ?STREAM_ID).

%% With streams of another connection's number, which all have the connection's process.
start(Mode, StreamId) ->
    {spawn(fun() -> loop(Mode, [], []) end), StreamId}.

%% Take so many of the frames that have come and were not taken; `{error, There}' if fewer are.
take({Pid, _}, Count) ->
    ask(Pid, {take, Count}).

%% What has come, oldest first: `attached', `overflow', `{text, Data}', `{binary, Data}'.
seen(Key) ->
    [Event || {_, Event} <- seen_by(Key)].

%% The same for one stream of the connection.
seen(Key, StreamId) ->
    [Event || {Id, Event} <- seen_by(Key), Id =:= StreamId].

%% Once that many have come, all of them.
await_seen(Key, Count) ->
    hornbeam_test_wait:until(fun() ->
        Seen = seen(Key),
        length(Seen) >= Count andalso Seen
    end).

text(Data) ->
    <<131, 109, (byte_size(Data)):32, Data/binary>>.

seen_by({Pid, _}) ->
    ask(Pid, seen).

ask(Pid, Question) ->
    Monitor = monitor(process, Pid),
    Pid ! {Question, self()},
    receive
        {Pid, Answer} ->
            demonitor(Monitor, [flush]),
            Answer;
        {'DOWN', Monitor, process, _, Reason} ->
            error({session_down, Reason})
    end.

loop(Mode, Seen, Refs) ->
    receive
        {{Pid, StreamId}, Message} when Pid =:= self() ->
            {Event, NewRefs} = note(Mode, Message),
            loop(Mode, [{StreamId, Event} | Seen], Refs ++ NewRefs);
        {seen, From} ->
            From ! {self(), lists:reverse(Seen)},
            loop(Mode, Seen, Refs);
        {{take, Count}, From} when Count > length(Refs) ->
            From ! {self(), {error, length(Refs)}},
            loop(Mode, Seen, Refs);
        {{take, Count}, From} ->
            {Taken, Rest} = lists:split(Count, Refs),
            lists:foreach(fun hornbeam_fanout:taken/1, Taken),
            From ! {self(), ok},
            loop(Mode, Seen, Rest)
    end.

note(_, fanout_attached) -> {attached, []};
note(_, fanout_overflow) -> {overflow, []};
note(_, {accept, _, _, _}) -> {accepted, []};
note(quick, {fanout, Ref, Frame}) -> ok = hornbeam_fanout:taken(Ref), {read(Frame), []};
note(slow, {fanout, Ref, Frame}) -> {read(Frame), [Ref]}.

%% RFC 6455 5.2: final, no extension, no mask.
read(<<16#81, Rest/binary>>) -> {text, payload(Rest)};
read(<<16#82, Rest/binary>>) -> {binary, payload(Rest)}.

payload(<<127, Bytes:64, Data:Bytes/binary>>) when Bytes > 65535 -> Data;
payload(<<126, Bytes:16, Data:Bytes/binary>>) when Bytes > 125 -> Data;
payload(<<Bytes, Data:Bytes/binary>>) when Bytes =< 125 -> Data.
