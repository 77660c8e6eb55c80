%% SPDX-License-Identifier: Apache-2.0

%% @private What is published goes to the WebSocket sessions that are attached to it, as one frame
%% that is encoded once and shared by all.
%%
%% One process for each node. It knows the sessions by their keys and sends them, as Cowboy wants
%% messages to streams to be, `{Key, Message}' with
%%
%% <ul>
%% <li>`fanout_attached': once, before any of the others;</li>
%% <li>`{fanout, Ref, Frame}': to be written as it is, after which the session says
%%   {@link taken/1};</li>
%% <li>`fanout_overflow': it was too slow, and is detached from everything.</li>
%% </ul>
%%
%% Bounds. A session has a few frames in its mailbox ({@link hornbeam_fanout_window}); what it does
%% not keep up with waits here ({@link hornbeam_fanout_queue}), up to what was asked for at attach.
%% Publishers of this node wait while much is not handed out; what comes from other nodes beyond
%% `MAX_BACKLOG_BYTES' is shed, as if it had been too much for each receiver.
%%
%% When this process crashes, what is in its mailbox and its queues is lost. The attachments are in
%% a table that outlives it: its successor closes the sessions that do not want to miss anything,
%% as if they had been too slow, and goes on with those that would rather miss something.
-module(hornbeam_fanout).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([attach/4]).
-export([detach/2]).
-export([forget/1]).
-export([taken/1]).
-export([info/0]).

%% for the tree and publishers
-export([child_specs/0]).
-export([create_tables/0]).
-export([start_link/0]).
-export([publish/3]).
-export([is_behind/0]).
-export([catch_up/0]).
-export([hand_out/2]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([key/0, ref/0, overflow/0]).

-type key() :: hornbeam_fanout_session:key().

-type overflow() :: hornbeam_fanout_queue:overflow().

-type receivers() :: #{key() => hornbeam_fanout_window:window()}.

-type ref() :: hornbeam_fanout_session:ref().

-record(state, {
    %% What publishers of this node, and of others, have sent here that is not handed out.
    backlog :: atomics:atomics_ref(),
    sessions = #{} :: #{key() => hornbeam_fanout_session:session()},
    %% The sessions of a subject once more, with what it takes to send to them.
    receivers = #{} :: #{hornbeam_topic:subject() => receivers()},
    %% The connections of the sessions: their monitors, and which of their streams are known.
    connections = #{} :: #{pid() => {reference(), [cowboy_stream:streamid()]}},
    %% While the backlog is too much: the subjects whose sessions have been told.
    shed = #{} :: #{hornbeam_topic:subject() => []},
    %% When it was logged that a message to that topic can't be sent.
    logged_ms = #{} :: #{hornbeam_topic:topic() => integer()},
    dropped = 0 :: non_neg_integer(),
    overflowed = 0 :: non_neg_integer()
}).

-define(TABLE, ?MODULE).

%% From where on publishers of this node wait, and what is shed of the others (other nodes, and
%% those that were let go on at the same time).
-define(HIGH_BACKLOG_BYTES, 16777216).
-define(MAX_BACKLOG_BYTES, 67108864).
%% What a frame counts beside its bytes: it has to be sent to many.
-define(FRAME_BYTES, 16384).

%% Topics that are remembered, so that each is logged once in a while.
-define(MAX_LOGGED, 100).
-define(LOG_INTERVAL_MS, 60000).

%%% API

%% @doc From now on the session gets what is published to topics that match: the first of its
%% patterns that does decides what becomes of a message when it is too slow. To attach it once more
%% changes what the pattern's attachment was given.
-spec attach(key(), Pattern :: binary(), overflow(), MaxQueue :: pos_integer()) ->
    ok | {error, hornbeam_pubsub:error()}.
attach(Key, Pattern, Overflow, MaxQueue) ->
    case hornbeam_topic:read_pattern(Pattern) of
        {ok, Subject} ->
            %% No timeout, as in all calls here: what waits before this one is bounded.
            gen_server:call(?MODULE, {attach, Key, Subject, {Overflow, MaxQueue}}, infinity);
        {error, invalid_pattern} ->
            {error, {invalid_pattern, #{pattern => Pattern}}}
    end.

%% @doc Nothing that is published from now on to that pattern; whether it was attached.
-spec detach(key(), Pattern :: binary()) -> boolean().
detach(Key, Pattern) ->
    case hornbeam_topic:read_pattern(Pattern) of
        {ok, Subject} -> gen_server:call(?MODULE, {detach, Key, Subject}, infinity);
        {error, invalid_pattern} -> false
    end.

%% @doc The session is over.
-spec forget(key()) -> ok.
forget(Key) ->
    gen_server:cast(?MODULE, {forget, Key}).

%% @doc The session has written the frame that came with this.
-spec taken(ref()) -> ok.
taken(Ref) ->
    case hornbeam_fanout_session:taken(Ref) of
        ok -> ok;
        {resume, Key} -> gen_server:cast(?MODULE, {resume, Key})
    end.

%% @doc Sessions and their attachments of this node, what waits for slow ones, and how many
%% messages were dropped and sessions detached, since the node has started, as they were too slow.
-spec info() -> #{
    sessions := non_neg_integer(),
    attachments := non_neg_integer(),
    patterns := non_neg_integer(),
    waiting := non_neg_integer(),
    waiting_bytes := non_neg_integer(),
    dropped := non_neg_integer(),
    overflowed := non_neg_integer()
}.
info() ->
    gen_server:call(?MODULE, info, infinity).

%%% For the tree and publishers

-spec child_specs() -> [supervisor:child_spec()].
child_specs() ->
    [#{id => Module, start => {Module, start_link, []}}
     || Module <- [?MODULE, hornbeam_fanout_peers]].

%% @doc The caller owns the tables.
-spec create_tables() -> ok.
create_tables() ->
    ok = hornbeam_fanout_counts:create_tables(),
    %% Rows are those of hornbeam_fanout_session. Public, since another process writes it.
    _ = ets:new(?TABLE, [named_table, public]),
    persistent_term:put(?MODULE, atomics:new(1, [{signed, true}])).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Send a message to all sessions of all nodes that are attached to one of the subjects, which
%% are those that match the topic; how many attachments those are.
-spec publish(hornbeam_topic:topic(), [hornbeam_topic:subject()],
              hornbeam_fanout_message:message()) -> non_neg_integer().
publish(Topic, Subjects, Message) ->
    case hornbeam_fanout_counts:reach(Subjects) of
        {0, _, _} ->
            0;
        {Count, IsLocal, Peers} ->
            case hornbeam_fanout_message:frame(Message) of
                {ok, Frame} ->
                    _ = IsLocal andalso hand_out(Subjects, Frame),
                    lists:foreach(fun(Peer) ->
                        hornbeam_fanout_peers:publish(Peer, Subjects, Frame)
                    end, Peers),
                    Count;
                none ->
                    gen_server:cast(?MODULE, {unsendable, Topic}),
                    0
            end
    end.

%% @doc Whether much of what was published is not handed out to the sessions of this node.
-spec is_behind() -> boolean().
is_behind() ->
    atomics:get(persistent_term:get(?MODULE), 1) > ?HIGH_BACKLOG_BYTES.

%% @doc Wait until it is.
-spec catch_up() -> ok.
catch_up() ->
    gen_server:call(?MODULE, catch_up, infinity).

%% @doc Send a frame to the sessions of this node.
-spec hand_out([hornbeam_topic:subject()], Frame :: binary()) -> ok.
hand_out(Subjects, Frame) ->
    ok = atomics:add(persistent_term:get(?MODULE), 1, weight(Frame)),
    gen_server:cast(?MODULE, {hand_out, Subjects, Frame}).

%%% gen_server

-spec init([]) -> {ok, #state{}}.
init([]) ->
    %% The mailbox may become long, and is not to be gone over at each collection.
    process_flag(message_queue_data, off_heap),
    Backlog = persistent_term:get(?MODULE),
    %% Of a publisher that was between its count and its message just now, the count is forgotten
    %% or stays: a difference of no weight.
    ok = atomics:put(Backlog, 1, 0),
    State = lists:foldl(fun recover/2, #state{backlog = Backlog}, ets:tab2list(?TABLE)),
    lists:foreach(fun({Subject, _}) -> count(Subject, State) end, hornbeam_fanout_counts:local()),
    {ok, State}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call({attach, Key, Subject, Options}, _From, State) ->
    {reply, ok, add(Key, Subject, Options, know(Key, State))};
handle_call({detach, Key, Subject}, _From, State = #state{sessions = Sessions}) ->
    case Sessions of
        #{Key := Session} ->
            case hornbeam_fanout_session:is_attached(Subject, Session) of
                true -> {reply, true, remove(Key, Subject, State)};
                false -> {reply, false, State}
            end;
        #{} ->
            {reply, false, State}
    end;
handle_call(catch_up, _From, State) ->
    %% All that came before is handed out.
    {reply, ok, State};
handle_call(info, _From, State) ->
    {reply, show(State), State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({hand_out, Subjects, Frame}, State = #state{backlog = Backlog}) ->
    case atomics:sub_get(Backlog, 1, weight(Frame)) =< ?MAX_BACKLOG_BYTES of
        true -> {noreply, deliver(Subjects, [], Frame, State#state{shed = #{}})};
        false -> {noreply, lists:foldl(fun shed/2, State, Subjects)}
    end;
handle_cast({resume, Key}, State = #state{sessions = Sessions}) ->
    case Sessions of
        #{Key := Session} -> {noreply, keep(Key, hornbeam_fanout_session:resume(Session), State)};
        #{} -> {noreply, State}
    end;
handle_cast({forget, Key}, State) ->
    {noreply, forget(Key, State)};
handle_cast({unsendable, Topic}, State) ->
    {noreply, log_unsendable(Topic, erlang:monotonic_time(millisecond), State)}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({'DOWN', _, process, Pid, _}, State = #state{connections = Connections}) ->
    case Connections of
        #{Pid := {_, StreamIds}} ->
            Keys = [{Pid, StreamId} || StreamId <- StreamIds],
            {noreply, lists:foldl(fun forget/2, State, Keys)};
        #{} ->
            {noreply, State}
    end;
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Sessions

%% Have the session among those that are known.
know(Key, State = #state{sessions = Sessions}) when is_map_key(Key, Sessions) ->
    State;
know(Key, State) ->
    ok = hornbeam_fanout_session:tell(Key, fanout_attached),
    watch(Key, hornbeam_fanout_session:new(Key), State).

watch(Key = {Pid, StreamId}, Session, State) ->
    #state{sessions = Sessions, connections = Connections} = State,
    Connection = case Connections of
        #{Pid := {Monitor, StreamIds}} -> {Monitor, [StreamId | StreamIds]};
        #{} -> {monitor(process, Pid), [StreamId]}
    end,
    State#state{sessions = Sessions#{Key => Session},
                connections = Connections#{Pid => Connection}}.

unwatch(Key = {Pid, StreamId}, State = #state{sessions = Sessions, connections = Connections}) ->
    true = ets:delete(?TABLE, Key),
    State#state{
        sessions = maps:remove(Key, Sessions),
        connections = case maps:get(Pid, Connections) of
            {Monitor, [StreamId]} ->
                demonitor(Monitor, [flush]),
                maps:remove(Pid, Connections);
            {Monitor, StreamIds} ->
                Connections#{Pid => {Monitor, lists:delete(StreamId, StreamIds)}}
        end
    }.

add(Key, Subject, Options, State = #state{sessions = Sessions}) ->
    Session = hornbeam_fanout_session:attach(Subject, Options, maps:get(Key, Sessions)),
    Window = hornbeam_fanout_session:window(Session),
    save(Key, Session, receive_from(Subject, Key, Window, State)).

receive_from(Subject, Key, Window, State0 = #state{receivers = Receivers}) ->
    OfSubject = maps:get(Subject, Receivers, #{}),
    State = State0#state{receivers = Receivers#{Subject => OfSubject#{Key => Window}}},
    count(Subject, State),
    State.

%% A session without attachments is known as long as something waits for it.
remove(Key, Subject, State0 = #state{sessions = Sessions}) ->
    Session = hornbeam_fanout_session:detach(Subject, maps:get(Key, Sessions)),
    State = save(Key, Session, take_from(Subject, Key, State0)),
    keep(Key, Session, State).

take_from(Subject, Key, State0 = #state{receivers = Receivers}) ->
    State = State0#state{receivers = case maps:remove(Key, maps:get(Subject, Receivers)) of
        None when map_size(None) =:= 0 -> maps:remove(Subject, Receivers);
        OfSubject -> Receivers#{Subject => OfSubject}
    end},
    count(Subject, State),
    State.

forget(Key, State = #state{sessions = Sessions}) ->
    case Sessions of
        #{Key := Session} ->
            Take = fun(Subject, Taken) -> take_from(Subject, Key, Taken) end,
            unwatch(Key, lists:foldl(Take, State, hornbeam_fanout_session:attached(Session)));
        #{} ->
            State
    end.

save(Key, Session, State = #state{sessions = Sessions}) ->
    true = ets:insert(?TABLE, hornbeam_fanout_session:row(Session)),
    State#state{sessions = Sessions#{Key => Session}}.

keep(Key, Session, State = #state{sessions = Sessions}) ->
    case hornbeam_fanout_session:is_over(Session) of
        true -> unwatch(Key, State);
        false -> State#state{sessions = Sessions#{Key => Session}}
    end.

count(Subject, #state{receivers = Receivers}) ->
    ok = hornbeam_fanout_counts:set_local(Subject, map_size(maps:get(Subject, Receivers, #{}))),
    hornbeam_fanout_peers:changed(Subject).

%% A session as an earlier process of this name has left it.
recover(Row = {Key, Window, Attached}, State = #state{overflowed = Overflowed}) ->
    case [close || {close, _} <- maps:values(Attached)] of
        [] ->
            Watched = watch(Key, hornbeam_fanout_session:recover(Row), State),
            Receive = fun(Subject, Recovered) -> receive_from(Subject, Key, Window, Recovered) end,
            lists:foldl(Receive, Watched, maps:keys(Attached));
        _ ->
            ok = hornbeam_fanout_session:tell(Key, fanout_overflow),
            true = ets:delete(?TABLE, Key),
            State#state{overflowed = Overflowed + 1}
    end.

%%% Messages

%% Each session once: those of the subjects before are `Seen'.
deliver([Subject | Subjects], Seen, Frame, State = #state{receivers = Receivers}) ->
    case Receivers of
        #{Subject := OfSubject} ->
            Slow = send_to_all(OfSubject, Seen, Frame),
            Hold = fun(Key, Held) -> hold(Key, Subject, Frame, Held) end,
            deliver(Subjects, [OfSubject | Seen], Frame, lists:foldl(Hold, State, Slow));
        #{} ->
            deliver(Subjects, Seen, Frame, State)
    end;
deliver([], _, _, State) ->
    State.

%% Gives those for which there is no room. They are few, and nothing changes for the others.
send_to_all(Receivers, Seen, Frame) ->
    Cost = hornbeam_fanout_window:cost(Frame),
    maps:fold(fun(Key, Window, Slow) ->
        case is_seen(Key, Seen) orelse
                hornbeam_fanout_session:is_sent(Key, Window, Cost, Frame) of
            true -> Slow;
            false -> [Key | Slow]
        end
    end, [], Receivers).

is_seen(_, []) -> false;
is_seen(Key, [Receivers | Seen]) -> is_map_key(Key, Receivers) orelse is_seen(Key, Seen).

%% There is no room in the session's mailbox, or a queue already.
hold(Key, Subject, Frame, State = #state{sessions = Sessions, dropped = Dropped}) ->
    case hornbeam_fanout_session:hold(Subject, Frame, maps:get(Key, Sessions)) of
        {ok, New, Session} -> keep(Key, Session, State#state{dropped = Dropped + New});
        overflow -> overflow(Key, State)
    end.

%% Too slow: it is closed, and loses what waits for it.
overflow(Key, State0) ->
    ok = hornbeam_fanout_session:tell(Key, fanout_overflow),
    State = #state{overflowed = Overflowed} = forget(Key, State0),
    State#state{overflowed = Overflowed + 1}.

%% What becomes of a message when too much waits to be handed out: nothing is sent, and to what
%% would have got it happens what does when its own queue is full.
shed(Subject, State = #state{receivers = Receivers, shed = Shed}) ->
    case Receivers of
        #{Subject := OfSubject} when is_map_key(Subject, Shed) ->
            drop_for(OfSubject, State);
        #{Subject := OfSubject} ->
            #state{sessions = Sessions} = State,
            IsClosed = fun(Key, _) ->
                hornbeam_fanout_session:is_closed_by(Subject, maps:get(Key, Sessions))
            end,
            Closed = maps:keys(maps:filter(IsClosed, OfSubject)),
            Left = maps:without(Closed, OfSubject),
            Told = State#state{shed = Shed#{Subject => []}},
            drop_for(Left, lists:foldl(fun overflow/2, Told, Closed));
        #{} ->
            State
    end.

drop_for(Receivers, State = #state{dropped = Dropped}) ->
    State#state{dropped = Dropped + map_size(Receivers)}.

weight(Frame) ->
    byte_size(Frame) + ?FRAME_BYTES.

%%% What is shown

show(State = #state{sessions = Sessions, receivers = Receivers}) ->
    Sizes = [hornbeam_fanout_session:waiting(Session) || Session <- maps:values(Sessions)],
    #{
        sessions => map_size(Sessions),
        attachments => lists:sum([map_size(OfSubject) || OfSubject <- maps:values(Receivers)]),
        patterns => map_size(Receivers),
        waiting => lists:sum([Frames || {Frames, _} <- Sizes]),
        waiting_bytes => lists:sum([Bytes || {_, Bytes} <- Sizes]),
        dropped => State#state.dropped,
        overflowed => State#state.overflowed
    }.

%% Once in a while for each topic, of which only so many are remembered.
log_unsendable(Topic, NowMs, State = #state{logged_ms = Logged}) ->
    IsRecent = fun(_, Ms) -> NowMs - Ms < ?LOG_INTERVAL_MS end,
    Recent = case map_size(Logged) of
        ?MAX_LOGGED -> maps:filter(IsRecent, Logged);
        _ -> Logged
    end,
    case Recent of
        #{Topic := Ms} when NowMs - Ms < ?LOG_INTERVAL_MS ->
            State#state{logged_ms = Recent};
        #{} when map_size(Recent) >= ?MAX_LOGGED ->
            State#state{logged_ms = Recent};
        #{} ->
            ?LOG_WARNING(#{what => message_not_sendable, topic => Topic}),
            State#state{logged_ms = Recent#{Topic => NowMs}}
    end.
