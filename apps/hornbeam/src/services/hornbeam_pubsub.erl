%% SPDX-License-Identifier: Apache-2.0

%% @doc Messages to whoever has subscribed to a topic, in Python and Erlang, on all connected nodes.
%%
%% ```
%% ok = hornbeam_pubsub:subscribe(<<"room:*">>),
%% 1 = hornbeam_pubsub:publish(<<"room:7">>, #{<<"text">> => <<"Hi">>}),
%% receive {hornbeam_pubsub, <<"room:7">>, #{<<"text">> := Text}} -> Text end.
%% '''
%%
%% A topic is split at each `:' and `/'. In a pattern `*' stands for exactly one segment, and `#',
%% which may only come last, for all that follow, also none: `room:#' matches `room', `room:7' and
%% `room:7/typing'. A pattern without either means exactly that topic.
%%
%% A process gets a message once, however many of its subscriptions match. Messages of one
%% publisher come in their order. Subscriptions end with the process, or with the worker.
%%
%% Binaries also go to the WebSocket sessions that are attached to the topic, on all nodes (see
%% {@link hornbeam_fanout}).
%%
%% Subscriptions are members of groups of {@link pg}: of the scope `hornbeam_pubsub' for topics and
%% patterns, and of the scope `hornbeam_pubsub_shapes' for the shapes of the patterns in use (see
%% {@link hornbeam_topic}). So every node knows all subscribers, and publishing asks nobody. Where a
%% scope crashes, {@link hornbeam_groups} makes up for it.
-module(hornbeam_pubsub).

%% API
-export([subscribe/1]).
-export([subscribe/2]).
-export([unsubscribe/1]).
-export([unsubscribe/2]).
-export([publish/2]).

%% internal
-export([scopes/0]).
-export([subscribe_worker/1]).
-export([unsubscribe_worker/1]).
-export([publish_encoded/2]).
-export([is_behind/1]).

-export_type([error/0]).

-type error() :: {invalid_pattern, #{pattern := binary()}}.
%% `#' stands before another segment.

-define(SCOPE, hornbeam_pubsub).
-define(SHAPES, hornbeam_pubsub_shapes).

%% Whose subscription it is: an Erlang process takes a message decoded and once, a worker takes it
%% encoded and tells each of its subscribers.
-type kind() :: process | worker.

%%% API

%% @equiv subscribe(Pattern, self())
-spec subscribe(Pattern :: binary()) -> ok | {error, error()}.
subscribe(Pattern) ->
    subscribe(Pattern, self()).

%% @doc From now on the process, one of this node, gets `{hornbeam_pubsub, Topic, Message}' for each
%% message to a topic that matches.
-spec subscribe(Pattern :: binary(), pid()) -> ok | {error, error()}.
subscribe(Pattern, Pid) ->
    join(process, Pattern, Pid).

%% @equiv unsubscribe(Pattern, self())
-spec unsubscribe(Pattern :: binary()) -> boolean().
unsubscribe(Pattern) ->
    unsubscribe(Pattern, self()).

%% @doc End one subscription to that pattern; whether there was one.
-spec unsubscribe(Pattern :: binary(), pid()) -> boolean().
unsubscribe(Pattern, Pid) ->
    leave(process, Pattern, Pid).

%% @doc Send a message to all who have subscribed; how many that are. Of Erlang, each process
%% counts, of Python each subscription, of WebSocket sessions each attachment. To those a binary
%% that is UTF-8 goes as a text message, another one as a binary one, and other terms not.
%%
%% Raises `badarg' for a topic with a segment `*' or `#'.
-spec publish(hornbeam_topic:topic(), Message :: term()) -> non_neg_integer().
publish(Topic, Message) when is_binary(Topic) ->
    hornbeam_topic:is_topic(Topic) orelse error(badarg),
    _ = is_behind(Topic) andalso hornbeam_fanout:catch_up(),
    Subjects = subjects(Topic),
    Processes = lists:usort(members(process, Subjects)),
    Workers = members(worker, Subjects),
    send_to_workers(Workers, Topic, fun() -> hornbeam_blob:encode(Message) end),
    send_to_processes(Processes, Topic, Message),
    length(Processes) + length(Workers) + hornbeam_fanout:publish(Topic, Subjects, {term, Message}).

%%% For the tree and the workers

%% @private
-spec scopes() -> [hornbeam_groups:scope()].
scopes() ->
    [?SCOPE, ?SHAPES].

%% @private One more subscription of the calling worker.
-spec subscribe_worker(Pattern :: binary()) -> ok | {error, error()}.
subscribe_worker(Pattern) ->
    join(worker, Pattern, self()).

%% @private One less; whether there was one.
-spec unsubscribe_worker(Pattern :: binary()) -> boolean().
unsubscribe_worker(Pattern) ->
    leave(worker, Pattern, self()).

%% @private As `publish/2' with a message that Python encoded; it is decoded once, and only where an
%% Erlang process has subscribed.
-spec publish_encoded(Topic :: binary(), hornbeam_blob:blob()) ->
    {ok, non_neg_integer()}
    | {error, {invalid_topic, #{topic := binary()}} | hornbeam_blob:error()}.
publish_encoded(Topic, Blob) ->
    case hornbeam_topic:is_topic(Topic) of
        true ->
            publish_encoded(Topic, Blob, subjects(Topic));
        false ->
            {error, {invalid_topic, #{topic => Topic}}}
    end.

%% @private Whether a publisher has to wait, as sessions of this node are attached to the topic, and
%% much of what was published is not handed out to them.
-spec is_behind(Topic :: binary()) -> boolean().
is_behind(Topic) ->
    hornbeam_fanout:is_behind() andalso
        element(2, hornbeam_fanout_counts:reach(subjects(Topic))).

%%% Internal

publish_encoded(Topic, Blob, Subjects) ->
    Processes = lists:usort(members(process, Subjects)),
    case send_decoded(Processes, Topic, Blob) of
        ok ->
            Workers = members(worker, Subjects),
            send_to_workers(Workers, Topic, fun() -> Blob end),
            Sockets = hornbeam_fanout:publish(Topic, Subjects, {blob, Blob}),
            {ok, length(Processes) + length(Workers) + Sockets};
        {error, _} = Error ->
            Error
    end.

send_decoded([], _, _) ->
    ok;
send_decoded(Processes, Topic, Blob) ->
    case hornbeam_blob:decode(Blob) of
        {ok, Message} -> send_to_processes(Processes, Topic, Message);
        {error, _} = Error -> Error
    end.

%% A pattern is joined before its shape and left after it, so that there is no shape without need
%% for long; a publisher that sees one of the two has come before the subscription was complete.
-spec join(kind(), binary(), pid()) -> ok | {error, error()}.
join(Kind, Text, Pid) when is_binary(Text) ->
    case hornbeam_topic:read_pattern(Text) of
        {ok, Topic} when is_binary(Topic) ->
            hornbeam_groups:join(?SCOPE, {Kind, Topic}, Pid);
        {ok, Pattern} ->
            ok = hornbeam_groups:join(?SCOPE, {Kind, Pattern}, Pid),
            hornbeam_groups:join(?SHAPES, hornbeam_topic:shape(Pattern), Pid);
        {error, invalid_pattern} ->
            {error, {invalid_pattern, #{pattern => Text}}}
    end.

leave(Kind, Text, Pid) when is_binary(Text) ->
    case hornbeam_topic:read_pattern(Text) of
        {ok, Subject} ->
            case hornbeam_groups:leave(?SCOPE, {Kind, Subject}, Pid) of
                ok ->
                    leave_shape(Subject, Pid),
                    true;
                not_joined ->
                    false
            end;
        {error, invalid_pattern} ->
            false
    end.

leave_shape(Topic, _) when is_binary(Topic) ->
    ok;
leave_shape(Pattern, Pid) ->
    ok = hornbeam_groups:leave(?SHAPES, hornbeam_topic:shape(Pattern), Pid).

%% All subjects that may have subscribers to this topic.
subjects(Topic) ->
    case hornbeam_groups:which_groups(?SHAPES) ++ hornbeam_fanout_counts:shapes() of
        [] ->
            [Topic];
        Shapes ->
            Segments = hornbeam_topic:split(Topic),
            Instances = [hornbeam_topic:instance(Shape, Segments) || Shape <- lists:usort(Shapes)],
            [Topic | [Pattern || {ok, Pattern} <- Instances]]
    end.

members(Kind, Subjects) ->
    lists:append([pg:get_members(?SCOPE, {Kind, Subject}) || Subject <- Subjects]).

send_to_processes(Processes, Topic, Message) ->
    lists:foreach(fun(Pid) -> Pid ! {?SCOPE, Topic, Message} end, Processes).

%% Encoded once for all workers.
send_to_workers([], _, _) ->
    ok;
send_to_workers(Workers, Topic, Blob) ->
    Encoded = hornbeam_protocol:encode({publish, Topic, Blob()}),
    lists:foreach(fun(Pid) -> hornbeam_worker:publish(Pid, Encoded) end, lists:usort(Workers)).
