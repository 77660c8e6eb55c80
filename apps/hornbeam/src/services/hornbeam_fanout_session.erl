%% SPDX-License-Identifier: Apache-2.0

%% @private One attached WebSocket session, as {@link hornbeam_fanout} keeps it: what it is attached
%% to, its window, and what waits for it where it does not keep up.
%%
%% While there is a queue the window is held: so what is new goes behind it, and the session says
%% when there is room.
-module(hornbeam_fanout_session).

%% API
-export([new/1]).
-export([recover/1]).
-export([row/1]).
-export([window/1]).
-export([attached/1]).
-export([is_attached/2]).
-export([is_closed_by/2]).
-export([is_over/1]).
-export([waiting/1]).
-export([attach/3]).
-export([detach/2]).
-export([tell/2]).
-export([is_sent/4]).
-export([hold/3]).
-export([resume/1]).
-export([taken/1]).

-export_type([session/0, key/0, row/0, ref/0]).

-type key() :: hornbeam_routes:stream_key().
%% Its connection's process, one of this node, and its stream in there.

-opaque ref() ::
    {key(), hornbeam_fanout_window:window(), hornbeam_fanout_window:cost()}.
%% What comes with a frame, to be given back when it is written.

-type attached() :: #{hornbeam_topic:subject() => hornbeam_fanout_queue:options()}.

-type row() :: {key(), hornbeam_fanout_window:window(), attached()}.
%% What outlives a crash.

-record(session, {
    key :: key(),
    window :: hornbeam_fanout_window:window(),
    attached = #{} :: attached(),
    queue = none :: hornbeam_fanout_queue:queue() | none
}).

-opaque session() :: #session{}.

-spec new(key()) -> session().
new(Key) ->
    #session{key = Key, window = hornbeam_fanout_window:new()}.

%% @doc After a crash, without what waited. In the window is what the session has not taken yet.
-spec recover(row()) -> session().
recover({Key, Window, Attached}) ->
    ok = hornbeam_fanout_window:reopen(Window),
    #session{key = Key, window = Window, attached = Attached}.

-spec row(session()) -> row().
row(#session{key = Key, window = Window, attached = Attached}) ->
    {Key, Window, Attached}.

-spec window(session()) -> hornbeam_fanout_window:window().
window(#session{window = Window}) ->
    Window.

-spec attached(session()) -> [hornbeam_topic:subject()].
attached(#session{attached = Attached}) ->
    maps:keys(Attached).

-spec is_attached(hornbeam_topic:subject(), session()) -> boolean().
is_attached(Subject, #session{attached = Attached}) ->
    is_map_key(Subject, Attached).

%% @doc Whether one message too much on that subject closes it.
-spec is_closed_by(hornbeam_topic:subject(), session()) -> boolean().
is_closed_by(Subject, #session{attached = Attached}) ->
    #{Subject := {Overflow, _}} = Attached,
    Overflow =:= close.

%% @doc Whether there is nothing to keep it for.
-spec is_over(session()) -> boolean().
is_over(#session{attached = Attached, queue = Queue}) ->
    map_size(Attached) =:= 0 andalso Queue =:= none.

-spec waiting(session()) -> {Frames :: non_neg_integer(), Bytes :: non_neg_integer()}.
waiting(#session{queue = none}) -> {0, 0};
waiting(#session{queue = Queue}) -> hornbeam_fanout_queue:size(Queue).

-spec attach(hornbeam_topic:subject(), hornbeam_fanout_queue:options(), session()) -> session().
attach(Subject, Options, Session = #session{attached = Attached}) ->
    Session#session{attached = Attached#{Subject => Options}}.

%% @doc What waits stays: it was published before.
-spec detach(hornbeam_topic:subject(), session()) -> session().
detach(Subject, Session = #session{attached = Attached}) ->
    Session#session{attached = maps:remove(Subject, Attached)}.

%% @doc As Cowboy wants messages to streams to be.
-spec tell(key(), fanout_attached | fanout_overflow | {fanout, ref(), Frame :: binary()}) -> ok.
tell(Key = {Pid, _}, Message) ->
    Pid ! {Key, Message},
    ok.

%% @doc Send the frame if there is room for it. Without the session: this is done thousands of
%% times for each message.
-spec is_sent(key(), hornbeam_fanout_window:window(), hornbeam_fanout_window:cost(),
              Frame :: binary()) -> boolean().
is_sent(Key, Window, Cost, Frame) ->
    hornbeam_fanout_window:admit(Window, Cost) andalso send(Key, Window, Cost, Frame) =:= ok.

%% @doc There is no room for the frame: it waits, and `Dropped' had to go for it.
-spec hold(hornbeam_topic:subject(), Frame :: binary(), session()) ->
    {ok, Dropped :: non_neg_integer(), session()} | overflow.
hold(Subject, Frame, Session = #session{queue = none}) ->
    case push(Subject, Frame, Session#session{queue = hornbeam_fanout_queue:new()}) of
        {ok, Dropped, Queued = #session{window = Window}} ->
            case hornbeam_fanout_window:hold(Window) of
                wait -> {ok, Dropped, Queued};
                go_on -> {ok, Dropped, go_on(Queued)}
            end;
        overflow ->
            overflow
    end;
hold(Subject, Frame, Session) ->
    push(Subject, Frame, Session).

%% @doc The session has said that there is room.
-spec resume(session()) -> session().
resume(Session = #session{window = Window}) ->
    case hornbeam_fanout_window:is_told(Window) of
        true -> go_on(Session);
        %% It was said of a window before this one.
        false -> Session
    end.

%% @doc For the session's own process: it has written the frame that came with this. Where that is
%% to be said to the fan-out process, by whom.
-spec taken(ref()) -> ok | {resume, key()}.
taken({Key, Window, Cost}) ->
    case hornbeam_fanout_window:taken(Window, Cost) of
        ok -> ok;
        resume -> {resume, Key}
    end.

%%% Internal

push(Subject, Frame, Session = #session{attached = Attached, queue = Queue0}) ->
    #{Subject := Options} = Attached,
    case hornbeam_fanout_queue:push(Subject, Frame, Options, Queue0) of
        {ok, Dropped, Queue} -> {ok, Dropped, Session#session{queue = Queue}};
        overflow -> overflow
    end.

%% From the queue to the mailbox.
go_on(Session = #session{key = Key, window = Window, queue = Queue}) ->
    case drain(Key, Window, Queue) of
        empty ->
            ok = hornbeam_fanout_window:release(Window),
            Session#session{queue = none};
        Rest ->
            case hornbeam_fanout_window:keep(Window) of
                wait -> Session#session{queue = Rest};
                go_on -> go_on(Session#session{queue = Rest})
            end
    end.

drain(Key, Window, Queue) ->
    case hornbeam_fanout_queue:peek(Queue) of
        {ok, Frame} ->
            Cost = hornbeam_fanout_window:cost(Frame),
            case hornbeam_fanout_window:admit_held(Window, Cost) of
                true ->
                    ok = send(Key, Window, Cost, Frame),
                    drain(Key, Window, hornbeam_fanout_queue:drop(Queue));
                false ->
                    Queue
            end;
        empty ->
            empty
    end.

send(Key, Window, Cost, Frame) ->
    tell(Key, {fanout, {Key, Window, Cost}, Frame}).
