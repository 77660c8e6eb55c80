%% SPDX-License-Identifier: Apache-2.0
%% Flow control of both bodies, in all orders in which it can go on, for windows of a few bytes: the
%% node's real modules between a model of Cowboy and a worker that does what docs/protocol.md lets
%% it do (tests/test_session_machine.py holds the real one to that).
%%
%% Of each: never more is under way than was granted, and as long as bytes are left something can
%% go on.
-module(hornbeam_credit_model_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([request_body/1]).
-export([response_body/1]).

%% How much Cowboy reads at once.
-define(READ_BYTES, 2).
-define(MAX_READS, 2).

all() ->
    [request_body, response_body].

%% The client sends whenever Cowboy reads; the worker holds back credit for less than a quarter of
%% the window, and none while its application waits.
request_body(_) ->
    [?assertMatch({ok, _}, request_model(Window, Bytes))
     || Window <- lists:seq(1, 6), Bytes <- [1, Window, 3 * Window + 2]].

%% The worker has at most a window unacknowledged, and sends when half of it is free or all of what
%% is left fits.
response_body(_) ->
    [?assertMatch({ok, _}, response_model(Window, Bytes))
     || Window <- lists:seq(1, 9), Bytes <- [1, Window, 2 * Window + 3]].

%%% The request's

-record(up, {
    window :: pos_integer(),
    %% What the client has still to send, what Cowboy has read, what is on its way to the worker.
    left :: non_neg_integer(),
    read = [] :: [pos_integer()],
    sent = [] :: [pos_integer()],
    flow :: hornbeam_flow:flow(),
    %% Cowboy's own count, and whether it reads.
    cowboy :: integer(),
    is_reading = true :: boolean(),
    %% What the worker has, and its application has not taken; what that has, and is not credited.
    unread = 0 :: non_neg_integer(),
    due = 0 :: non_neg_integer(),
    credits = [] :: [pos_integer()]
}).

request_model(Window, Bytes) ->
    First = #up{window = Window, left = Bytes, flow = hornbeam_flow:new(Window), cowboy = Window},
    hornbeam_test_explore:states(First, fun next_up/1, fun check_up/1).

check_up(#up{window = Window, read = Read, sent = Sent, unread = Unread, left = Left}) ->
    Untaken = lists:sum(Read) + lists:sum(Sent) + Unread,
    case Untaken > Window + ?READ_BYTES * ?MAX_READS of
        true -> {wrong, {too_much, Untaken}};
        false when Left =:= 0, Untaken =:= 0 -> end_state;
        false -> ok
    end.

next_up(State) ->
    [{Step, Next} || Step <- [read, deliver, arrive, take, wait, credit],
                     Next <- up(Step, State)].

up(read, State = #up{is_reading = true, left = Left, read = Read})
        when Left > 0, length(Read) < ?MAX_READS ->
    [State#up{left = Left - Bytes, read = Read ++ [Bytes]}
     || Bytes <- lists:seq(1, min(Left, ?READ_BYTES))];
up(deliver, State = #up{read = [Bytes | Read], cowboy = Cowboy0, sent = Sent}) ->
    Cowboy = Cowboy0 - Bytes,
    [State#up{read = Read, sent = Sent ++ [Bytes], cowboy = Cowboy,
              flow = hornbeam_flow:received(Bytes, State#up.flow),
              is_reading = State#up.is_reading andalso not (Cowboy0 > 0 andalso Cowboy =< 0)}];
up(arrive, State = #up{sent = [Bytes | Sent], unread = Unread}) ->
    [State#up{sent = Sent, unread = Unread + Bytes}];
up(take, State = #up{unread = Unread, due = Due0, window = Window}) when Unread > 0 ->
    Due = Due0 + Unread,
    Taken = State#up{unread = 0, due = Due},
    %% It may give credit before it has to.
    [give_credit(Taken) | [Taken || Due * 4 < Window]];
up(wait, State = #up{unread = 0, due = Due}) when Due > 0 ->
    [give_credit(State)];
up(credit, State = #up{credits = [Bytes | Credits], flow = Flow0}) ->
    {Commands, Flow} = hornbeam_flow:credit(Bytes, Flow0),
    [lists:foldl(fun({flow, Size}, Before) -> more_flow(Size, Before) end,
                 State#up{credits = Credits, flow = Flow}, Commands)];
up(_, _) ->
    [].

give_credit(State = #up{due = Due, credits = Credits}) ->
    State#up{due = 0, credits = Credits ++ [Due]}.

%% As cowboy_http: one that is overdrawn begins anew.
more_flow(Size, State = #up{cowboy = Cowboy0, is_reading = IsReading}) ->
    Cowboy = max(Cowboy0, 0) + Size,
    State#up{cowboy = Cowboy, is_reading = IsReading orelse (Cowboy0 =< 0 andalso Cowboy > 0)}.

%%% The response's

-record(down, {
    window :: pos_integer(),
    left :: non_neg_integer(),
    unacked = 0 :: non_neg_integer(),
    %% On its way to the connection, with what that has told itself, and the socket's bytes.
    mailbox = [] :: [{data, pos_integer()} | {sent, pos_integer()}],
    body = hornbeam_response_body:new() :: hornbeam_response_body:body(),
    arrived = 0 :: non_neg_integer(),
    acks = [] :: [pos_integer()],
    total :: pos_integer()
}).

response_model(Window, Bytes) ->
    First = #down{window = Window, left = Bytes, total = Bytes},
    hornbeam_test_explore:states(First, fun next_down/1, fun check_down/1).

check_down(#down{window = Window, unacked = Unacked}) when Unacked > Window ->
    {wrong, {too_much, Unacked}};
%% An acknowledgement of what is not there can't be handled, and stays.
check_down(#down{left = 0, mailbox = [], acks = [], arrived = Total, total = Total}) ->
    end_state;
check_down(_) ->
    ok.

next_down(State) ->
    [{Step, Next} || Step <- [send, handle, ack], Next <- down(Step, State)].

%% Of what is left any part, at most the room.
down(send, State = #down{window = Window, left = Left, unacked = Unacked, mailbox = Mailbox})
        when Left > 0 ->
    Room = Window - Unacked,
    Enough = min(Left, (Window + 1) div 2),
    [State#down{left = Left - Bytes, unacked = Unacked + Bytes,
                mailbox = Mailbox ++ [{data, Bytes}]}
     || Room >= Enough, Bytes <- lists:usort([Enough, min(Room, Left)])];
down(handle, State = #down{mailbox = [{data, Bytes} | Mailbox], arrived = Arrived}) ->
    #down{body = Body0, window = Window} = State,
    Request = #{stream_id => 1, server => #{window => Window}},
    {go_on, [{data, nofin, Data}], Body} =
        hornbeam_response_body:data(nofin, <<0:Bytes/unit:8>>, Request, none, Body0),
    Told = receive
        {{Pid, 1}, {sent, _} = Sent} when Pid =:= self() -> [Sent]
    after 0 ->
        []
    end,
    [State#down{mailbox = Mailbox ++ Told, body = Body, arrived = Arrived + byte_size(Data)}];
down(handle, State = #down{mailbox = [{sent, Bytes} | Mailbox], acks = Acks}) ->
    [State#down{mailbox = Mailbox, acks = Acks ++ [Bytes]}];
down(ack, State = #down{acks = [Bytes | Acks], unacked = Unacked}) when Bytes =< Unacked ->
    [State#down{acks = Acks, unacked = Unacked - Bytes}];
down(_, _) ->
    [].
